// The global functions of chat templates.
#include <algorithm>
#include <chrono>
#include <ctime>

#include "data/template/builtins.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Value = TemplateValue;

constexpr int64_t kLongestRange = 100000;  // as Jinja2's sandbox

std::string time_now(const std::string& format) {
    const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm local{};
    localtime_r(&now, &local);
    char text[256];
    if (format.size() > 64) throw TemplateProblem{"a format of the time of more than 64 bytes"};
    return {text, std::strftime(text, sizeof text, format.c_str(), &local)};
}

Value range(const TemplateArguments& arguments, TemplateMeter& meter) {
    arguments.expect({"", "", ""});
    std::vector<int64_t> bounds;
    for (const Value& value : arguments.positional) {
        const int64_t* whole = std::get_if<int64_t>(&value);
        if (!whole) throw TemplateProblem{concat("range wants integers, not a ", kind_of(value))};
        bounds.push_back(*whole);
    }
    if (bounds.empty()) throw TemplateProblem{"range wants an argument"};
    if (bounds.size() == 1) bounds.insert(bounds.begin(), 0);
    const int64_t step = bounds.size() > 2 ? bounds[2] : 1;
    if (step == 0) throw TemplateProblem{"range with step 0"};
    TemplateValues items;
    for (int64_t at = bounds[0]; step > 0 ? at < bounds[1] : at > bounds[1];) {
        if (static_cast<int64_t>(items.size()) == kLongestRange)
            throw TemplateProblem{"range is too long"};
        items.emplace_back(at);
        if (__builtin_add_overflow(at, step, &at)) break;
    }
    meter.take(static_cast<int64_t>(items.size()));
    return make_list(std::move(items), TemplateList::view);
}

}  // namespace

bool is_function(std::string_view name) {
    constexpr std::string_view kNames[] = {"range",        "dict",   "namespace", "raise_exception",
                                           "strftime_now", "lipsum", "cycler",    "joiner"};
    return std::ranges::find(kNames, name) != std::end(kNames);
}

void set_attribute(TemplateDict& space, const std::string& name, TemplateValue value) {
    if (name.starts_with('_')) throw TemplateProblem{"a namespace's names cannot begin with _"};
    space.set(name, std::move(value));
}

TemplateValue call_function(const std::string& name, const TemplateArguments& arguments,
                            TemplateMeter& meter) {
    if (name == "range") return range(arguments, meter);
    if (name == "raise_exception" || name == "strftime_now") {
        arguments.expect({""});
        if (arguments.positional.empty()) throw TemplateProblem{concat(name, " wants an argument")};
        const std::string& text = want_text(arguments.positional[0], "its argument");
        if (name == "raise_exception") throw TemplateProblem{"the template refuses: " + text};
        return make_text(time_now(text));
    }
    if (name != "dict" && name != "namespace")
        throw TemplateProblem{concat("the function ", name, " is not supported")};
    auto dict = std::make_shared<TemplateDict>();
    const auto put = [&](const std::string& key, const Value& value) {
        dict->is_namespace ? set_attribute(*dict, key, value) : dict->set(key, value);
    };
    dict->is_namespace = name == "namespace";
    if (arguments.positional.size() > 1) throw TemplateProblem{concat(name, " takes one dict")};
    if (!arguments.positional.empty()) {
        if (!is_mapping(arguments.positional[0]))
            throw TemplateProblem{concat(name, " takes a dict")};
        for (const auto& [key, value] : dict_in(arguments.positional[0])->items) put(key, value);
    }
    for (const auto& [key, value] : arguments.named) put(key, value);
    return dict;
}

}  // namespace fucina
