#include "launch/command_line.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "launch/home_path.h"
#include "launch/suggest.h"

namespace fucina {
namespace {

constexpr const char* kNumber = "number";  // the check that range() makes narrower

// Of the whole of `text`; false for anything else, and beyond the type's range.
template <class T>
bool read_number(const std::string& text, T& value) {
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, value);
    return result.ec == std::errc() && result.ptr == end;
}

template <class T>
std::string range_problem(const std::string& text, T least, T most) {
    T value{};
    if (read_number(text, value) && value >= least && value <= most) return {};
    return concat("is ", text, "; expected a number from ", least, " to ", most);
}

template <class T>
void check_range(CLI::Option* option, T least, T most) {
    option->get_validator(kNumber)
        ->operation([=](std::string& text) { return range_problem(text, least, most); })
        .description(concat(least, " to ", most));
}

std::string finite_problem(const std::string& text) {
    double value = 0;
    if (read_number(text, value) && std::isfinite(value)) return {};
    return concat("is ", text, "; expected a finite number");
}

template <class T>
std::string integer_problem(const std::string& text) {
    T value{};
    if (read_number(text, value)) return {};
    return concat("is ", text, "; expected a whole number from ", std::numeric_limits<T>::min(),
                  " to ", std::numeric_limits<T>::max());
}

std::vector<const CLI::App*> subcommands_of(const CLI::App& app) {
    return app.get_subcommands([](const CLI::App*) { return true; });
}

// CLI11 reports a misspelt command as a missing one, so it is looked at first.
void check_command_name(const CLI::App& app, int argc, char** argv) {
    if (argc < 2) fail(ExitCode::usage, "no command given; `fucina --help` lists them");
    const std::string name = argv[1];
    std::vector<std::string> names;
    if (!name.empty() && name[0] == '-') {
        for (const CLI::Option* option : app.get_options()) {
            if (option->check_name(name)) return;
            for (const std::string& known : option->get_lnames()) names.push_back("--" + known);
        }
        fail(ExitCode::usage, "fucina has no option \"", name, "\"", did_you_mean(name, names),
             "; `fucina --help` lists them");
    }
    for (const CLI::App* command : subcommands_of(app)) {
        if (command->get_name() == name) return;
        if (!command->get_group().empty()) names.push_back(command->get_name());
    }
    fail(ExitCode::usage, "there is no command \"", name, "\"", did_you_mean(name, names),
         "; `fucina --help` lists them");
}

std::string describe(const CLI::App& app, const CLI::ParseError& error) {
    const CLI::App* command = &app;  // the innermost that was recognised
    std::string where = app.get_name();
    while (!command->get_subcommands().empty()) {
        command = command->get_subcommands().front();
        where += " " + command->get_name();
    }
    std::string text = one_line(error.what());
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
        const std::vector<std::string> extras = app.remaining(true);
        const std::string word = extras.empty() ? std::string() : extras.front();
        std::vector<std::string> names;
        for (const CLI::Option* option : command->get_options()) {
            for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
        }
        for (const CLI::App* inner : subcommands_of(*command)) names.push_back(inner->get_name());
        text = concat("does not know \"", word, "\"",
                      did_you_mean(word.substr(0, word.find('=')), names));
    }
    return concat(where, ": ", text, "; `", where, " --help` shows its use");
}

}  // namespace

Option Option::required() const {
    option_->required();
    return *this;
}
Option Option::needs(const Option& other) const {
    option_->needs(other.option_);
    return *this;
}
Option Option::excludes(const Option& other) const {
    option_->excludes(other.option_);
    return *this;
}
Option Option::one_of(const std::vector<std::string>& values) const {
    option_->check(CLI::IsMember(values));
    return *this;
}
Option Option::range(int64_t least, int64_t most) const {
    check_range(option_, least, most);
    return *this;
}
Option Option::range(double least, double most) const {
    check_range(option_, least, most);
    return *this;
}
Option Option::path() const {
    const auto expand = [](const std::string& path) {
        if (path.empty()) throw CLI::ValidationError("is empty; expected a path");
        return expand_home(path);
    };
    option_->transform(std::function<std::string(std::string)>(expand));
    return *this;
}
Option Option::one_word() const {
    option_->allow_extra_args(false);
    return *this;
}
Option Option::hidden() const {
    option_->group("");
    return *this;
}
Option Option::show_default() const {
    option_->capture_default_str();
    return *this;
}

Command Command::subcommand(const std::string& name, const std::string& help) const {
    app_->require_subcommand(1);
    return Command(app_->add_subcommand(name, help));
}
Option Command::option(const std::string& name, std::string& value, const std::string& help) const {
    return Option(app_->add_option(name, value, help));
}
Option Command::option(const std::string& name, std::optional<std::string>& value,
                       const std::string& help) const {
    return Option(app_->add_option_function<std::string>(
        name, [&value](const std::string& text) { value = text; }, help));
}
Option Command::option(const std::string& name, int64_t& value, const std::string& help) const {
    return Option(
        app_->add_option(name, value, help)->check(integer_problem<int64_t>, "", kNumber));
}
Option Command::option(const std::string& name, uint64_t& value, const std::string& help) const {
    return Option(
        app_->add_option(name, value, help)->check(integer_problem<uint64_t>, "", kNumber));
}
Option Command::option(const std::string& name, double& value, const std::string& help) const {
    return Option(app_->add_option(name, value, help)->check(finite_problem, "", kNumber));
}
Option Command::option(const std::string& name, std::vector<std::string>& values,
                       const std::string& help) const {
    return Option(app_->add_option(name, values, help));
}
Option Command::flag(const std::string& name, bool& value, const std::string& help) const {
    return Option(app_->add_flag(name, value, help));
}
void Command::hidden() const {
    app_->group("");
}
void Command::run(std::function<void()> body) const {
    app_->callback(std::move(body));
}

CommandLine::CommandLine(const std::string& name, const std::string& description,
                         const std::string& version)
    : app_(std::make_unique<CLI::App>(description, name)) {
    app_->set_version_flag("--version", version);
}
CommandLine::~CommandLine() = default;

Command CommandLine::root() {
    return Command(app_.get());
}

void CommandLine::parse(int argc, char** argv, bool speaks) {
    try {
        check_command_name(*app_, argc, argv);
        app_->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() != 0) fail(ExitCode::usage, describe(*app_, error));
        if (speaks) app_->exit(error);  // --help and --version arrive as exceptions
    }
}

}  // namespace fucina
