// How filters, tests and methods take their arguments, and the global functions.
#include "data/template/builtins.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "data/template/run.h"

namespace fucina {
namespace {

using Value = TemplateValue;

constexpr int64_t kLongestRange = 100000;  // as Jinja2's sandbox

Value work_on(const Value& self, const std::string& what, const TemplateBuiltin& builtin,
              const TemplateArguments& arguments, TemplateMeter& meter) {
    const bool any = !builtin.parameters.empty() && builtin.parameters[0] == "...";
    return builtin.work(
        {.self = self,
         .given = any ? std::vector<const Value*>()
                      : bind_arguments(what, builtin.parameters, builtin.required, arguments),
         .arguments = arguments,
         .meter = meter});
}

// The same with what its text costs.
Value work_on_text(const Value& self, const std::string& what, const TemplateBuiltin& builtin,
                   const TemplateArguments& arguments, TemplateMeter& meter) {
    if (const std::string* text = text_in(self)) meter.take_text(text->size());
    Value out = work_on(self, what, builtin, arguments, meter);
    if (const std::string* made = text_in(out)) meter.take_text(made->size());
    return out;
}

Value range(const TemplateCall& call) {
    std::vector<int64_t> bounds;
    for (const Value* value : call.given) {
        if (!value) continue;
        if (!is<int64_t>(*value)) give_up("range wants integers, not a ", kind_of(*value));
        bounds.push_back(std::get<int64_t>(*value));
    }
    if (bounds.size() == 1) bounds.insert(bounds.begin(), 0);
    const int64_t step = bounds.size() > 2 ? bounds[2] : 1;
    if (step == 0) give_up("range with step 0");
    TemplateValues items;
    for (int64_t at = bounds[0]; step > 0 ? at < bounds[1] : at > bounds[1];) {
        if (std::ssize(items) == kLongestRange) give_up("range is too long");
        items.emplace_back(at);
        if (__builtin_add_overflow(at, step, &at)) break;
    }
    call.meter.take(std::ssize(items));
    return make_list(std::move(items), TemplateList::view);
}

// dict and namespace: of a dict, of named arguments.
Value make_dict(const TemplateCall& call, bool is_namespace) {
    auto dict = std::make_shared<TemplateDict>();
    dict->is_namespace = is_namespace;
    const auto put = [&](const TemplateNames& names) {
        for (const auto& [key, value] : names.items)
            is_namespace ? set_attribute(*dict, key, value) : dict->set(key, value);
    };
    const TemplateValues& whole = call.arguments.positional;
    if (whole.size() > 1 || (whole.size() == 1 && !is_mapping(whole[0])))
        give_up(is_namespace ? "namespace" : "dict", " takes one dict");
    if (!whole.empty()) put(*dict_in(whole[0]));
    put(call.arguments.named);
    return dict;
}

Value time_now(const TemplateCall& call) {
    const std::string& format = want_text(*call.given[0], "its argument");
    if (format.size() > 64) give_up("a format of the time of more than 64 bytes");
    const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm local{};
    localtime_r(&now, &local);
    char text[256];
    return make_text({text, std::strftime(text, sizeof text, format.c_str(), &local)});
}

const TemplateBuiltins& functions() {
    static const TemplateBuiltins kFunctions = {
        {"range", {{"", "", ""}, 1, range}},
        {"dict", {{"..."}, 0, [](const TemplateCall& call) { return make_dict(call, false); }}},
        {"namespace", {{"..."}, 0, [](const TemplateCall& call) { return make_dict(call, true); }}},
        {"strftime_now", {{""}, 1, time_now}},
        {"raise_exception",
         {{""},
          1,
          [](const TemplateCall& call) -> Value {
              give_up("the template refuses: ", want_text(*call.given[0], "its argument"));
          }}},
        // Jinja2's others, known by name alone.
        {"lipsum", {{"..."}, 0, nullptr}},
        {"cycler", {{"..."}, 0, nullptr}},
        {"joiner", {{"..."}, 0, nullptr}},
    };
    return kFunctions;
}

}  // namespace

std::vector<const TemplateValue*> bind_arguments(const std::string& what,
                                                 const std::vector<std::string_view>& parameters,
                                                 size_t required,
                                                 const TemplateArguments& arguments) {
    const size_t count = arguments.positional.size();
    if (count > parameters.size())
        give_up(what, " takes ", parameters.size(), " arguments, not ", count);
    std::vector<const TemplateValue*> given(parameters.size());
    for (size_t i = 0; i < count; ++i) given[i] = &arguments.positional[i];
    for (const auto& [name, value] : arguments.named.items) {
        const auto place =
            static_cast<size_t>(std::ranges::find(parameters, name) - parameters.begin());
        if (place == parameters.size() || given[place])
            give_up(what, " has no use for the argument ", name);
        given[place] = &value;
    }
    for (size_t i = 0; i < required; ++i)
        if (!given[i]) give_up(what, " wants ", required == 1 ? "an argument" : "two arguments");
    return given;
}

TemplateValue apply_filter(const std::string& name, const TemplateValue& input,
                           const TemplateArguments& arguments, TemplateMeter& meter) {
    const TemplateBuiltin& filter = template_filters().at(name);
    const auto* text = std::get_if<TemplateText>(&input);
    if (text && text->is_safe && !filter.takes_safe)
        give_up("the filter ", name, " of what `safe` made is not supported");
    return work_on_text(input, "the filter " + name, filter, arguments, meter);
}

bool apply_test(const std::string& name, const TemplateValue& subject,
                const TemplateArguments& arguments, TemplateMeter& meter) {
    return is_true(
        work_on(subject, "the test " + name, template_tests().at(name), arguments, meter));
}

TemplateValue call_method(const std::string& name, const TemplateBuiltins& methods,
                          const TemplateValue& self, const TemplateArguments& arguments,
                          TemplateMeter& meter) {
    const auto* text = std::get_if<TemplateText>(&self);
    if (text && text->is_safe) give_up("a method of what `safe` made is not supported");
    const auto method = methods.find(name);
    if (method == methods.end())
        give_up("the method ", name, " of a ", kind_of(self), " is not supported");
    return work_on_text(self, "the method " + name, method->second, arguments, meter);
}

TemplateValue function_of(const std::string& name) {
    const auto found = functions().find(name);
    if (found == functions().end()) return Undefined{name};
    const auto call = [name, &builtin = found->second](const TemplateArguments& arguments,
                                                       TemplateRun& run) {
        if (!builtin.work) give_up("the function ", name, " is not supported");
        return work_on(None{}, "the function " + name, builtin, arguments, run.meter);
    };
    return std::make_shared<TemplateCallable>(TemplateCallable{"function", call});
}

void set_attribute(TemplateDict& space, const std::string& name, TemplateValue value) {
    if (name.starts_with('_')) give_up("a namespace's names cannot begin with _");
    space.set(name, std::move(value));
}

}  // namespace fucina
