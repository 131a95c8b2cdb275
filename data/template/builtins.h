// What chat templates can call: filters, tests, methods and attributes, as Jinja2 and Python have
// them. Failures are TemplateProblem. Private to data/template.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/template/value.h"

namespace fucina {

// Bounds the time and memory that a template may take: a step is a node of its tree, an item of a
// list, or 16 bytes of text.
class TemplateMeter {
  public:
    void take(int64_t steps) {
        if ((left_ -= steps) < 0) throw TemplateProblem{"the template takes too many steps"};
    }
    void take_text(size_t bytes) { take(static_cast<int64_t>(bytes / 16)); }

  private:
    int64_t left_ = 20'000'000;
};

struct TemplateArguments {
    TemplateValues positional;
    std::vector<std::pair<std::string, TemplateValue>> named;

    // Fails where there is one that `names` does not have, of which the first `order` may come
    // without a name.
    void expect(std::initializer_list<std::string_view> names) const;
    const TemplateValue* find(size_t place, std::string_view name) const;  // null: not given
};

TemplateValue apply_filter(const std::string& name, const TemplateValue& input,
                           const TemplateArguments& arguments, TemplateMeter& meter);
bool apply_test(const std::string& name, const TemplateValue& subject,
                const TemplateArguments& arguments);
TemplateValue call_method(const TemplateMethod& method, const TemplateArguments& arguments,
                          TemplateMeter& meter);

bool is_function(std::string_view name);  // a global one
TemplateValue call_function(const std::string& name, const TemplateArguments& arguments,
                            TemplateMeter& meter);

// Of a namespace.
void set_attribute(TemplateDict& space, const std::string& name, TemplateValue value);
// value.name; value[index]. Undefined where there is none.
TemplateValue attribute_of(const TemplateValue& value, const std::string& name);
TemplateValue item_of(const TemplateValue& value, const TemplateValue& index);
// value[begin:end:step]; None where it is not given.
TemplateValue slice_of(const TemplateValue& value, const TemplateValue& begin,
                       const TemplateValue& end, const TemplateValue& step);

// a sign b, of + - * / // % ~.
TemplateValue calculate(const std::string& sign, const TemplateValue& a, const TemplateValue& b);

std::string upper(std::string text);  // of ASCII alone, as are these
std::string lower(std::string text);
std::string capitalize(std::string text);
const std::string& want_text(const TemplateValue& value, std::string_view what);

}  // namespace fucina
