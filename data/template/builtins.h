// What chat templates can call, as Jinja2 and Python have it: filters, tests, methods and global
// functions, each with its parameters in a table. Private to data/template.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/template/value.h"

namespace fucina {

// Bounds the time and memory that a template may take: a step is a node of its tree, an item of a
// list, or 16 bytes of text.
class TemplateMeter {
  public:
    void take(int64_t steps) {
        if ((left_ -= steps) < 0) give_up("the template takes too many steps");
    }
    void take_text(size_t bytes) { take(static_cast<int64_t>(bytes / 16)); }

  private:
    int64_t left_ = 20'000'000;
};

struct TemplateCall {
    const TemplateValue& self;  // a filter's input, a test's subject, a method's object
    // By parameter; null where it is not given.
    std::vector<const TemplateValue*> given;
    const TemplateArguments& arguments;
    TemplateMeter& meter;

    // Of a parameter for which None is the same as nothing.
    const TemplateValue* some(size_t place) const {
        return given[place] && !is<None>(*given[place]) ? given[place] : nullptr;
    }
    bool flag(size_t place) const { return given[place] && is_true(*given[place]); }
    int64_t whole(size_t place, int64_t otherwise) const {
        const auto* value = given[place] ? std::get_if<int64_t>(given[place]) : nullptr;
        return value ? *value : otherwise;
    }
};

struct TemplateBuiltin {
    // "" has no name to call it by; a first "..." stands for any arguments.
    std::vector<std::string_view> parameters;
    size_t required;  // the first so many
    std::function<TemplateValue(const TemplateCall& call)> work;
    bool takes_safe = false;  // a filter of what `safe` made
};
using TemplateBuiltins = std::map<std::string_view, TemplateBuiltin>;

const TemplateBuiltins& template_filters();
const TemplateBuiltins& template_tests();
// Of any value, as text: the table of filters has some of them too.
const TemplateBuiltins& text_methods();

// The arguments by parameter, null where there is none; messages call `what` what is called.
std::vector<const TemplateValue*> bind_arguments(const std::string& what,
                                                 const std::vector<std::string_view>& parameters,
                                                 size_t required,
                                                 const TemplateArguments& arguments);
TemplateValue apply_filter(const std::string& name, const TemplateValue& input,
                           const TemplateArguments& arguments, TemplateMeter& meter);
bool apply_test(const std::string& name, const TemplateValue& subject,
                const TemplateArguments& arguments, TemplateMeter& meter);
TemplateValue call_method(const std::string& name, const TemplateBuiltins& methods,
                          const TemplateValue& self, const TemplateArguments& arguments,
                          TemplateMeter& meter);
// A global function; Undefined where there is none of that name.
TemplateValue function_of(const std::string& name);

// Of a namespace.
void set_attribute(TemplateDict& space, const std::string& name, TemplateValue value);
// value.name; value[index]. Undefined where there is none.
TemplateValue attribute_of(const TemplateValue& value, const std::string& name);
TemplateValue item_of(const TemplateValue& value, const TemplateValue& index);
// value[begin:end:step]; None where it is not given.
TemplateValue slice_of(const TemplateValue& value, const TemplateValue& begin,
                       const TemplateValue& end, const TemplateValue& step);

std::string lower_ascii(std::string text);  // fails beyond ASCII

}  // namespace fucina
