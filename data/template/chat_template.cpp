#include "data/template/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/template/syntax.h"
#include "data/tokenizer/unicode.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// As Jinja2: line feeds alone, and not the last one.
std::string with_line_feeds(std::string_view source) {
    std::string out;
    for (size_t i = 0; i < source.size(); ++i)
        if (!source.substr(i).starts_with("\r\n")) out += source[i] == '\r' ? '\n' : source[i];
    if (out.ends_with('\n')) out.pop_back();
    return out;
}

}  // namespace

template <class Work>
auto ChatTemplate::attempt(const Work& work) const {
    try {
        return work();
    } catch (const TemplateProblem& problem) {
        const std::string_view before =
            std::string_view(source_).substr(0, problem.place.value_or(0));
        fail(ExitCode::data, name_, ":", 1 + std::ranges::count(before, '\n'), ":",
             before.size() - (before.rfind('\n') + 1) + 1, ": ", one_line(problem.what, 400));
    }
}

ChatTemplate ChatTemplate::parse(std::string_view source, std::string name) {
    if (!is_valid_utf8(source)) fail(ExitCode::data, name, ": the template is not UTF-8");
    ChatTemplate out;
    out.source_ = with_line_feeds(source);
    out.name_ = std::move(name);
    out.root_ = out.attempt(
        [&] { return std::make_shared<const TemplateStatement>(parse_template(out.source_)); });
    return out;
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
    return attempt([&] {
        TemplateRun run;
        for (const auto& [name, value] : variables.items())
            run.scope->names.put(name, from_json(value));
        (*root_)(run);
        return std::move(run.out);
    });
}

}  // namespace fucina
