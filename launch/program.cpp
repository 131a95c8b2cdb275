#include "launch/program.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "kernels/error.h"
#include "launch/process.h"
#include "launch/suggest.h"

namespace fucina {
namespace {

constexpr const char* kVersion = "fucina 0.1.0";

std::string one_line(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
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
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
        if (command->get_name() == name) return;
        if (!command->get_group().empty()) names.push_back(command->get_name());
    }
    fail(ExitCode::usage, "there is no command \"", name, "\"", did_you_mean(name, names),
         "; `fucina --help` lists them");
}

// The innermost command that was recognised, for its name and its options.
const CLI::App* active_command(const CLI::App& app) {
    const CLI::App* command = &app;
    while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
    return command;
}

std::string describe(const CLI::App& app, const CLI::ParseError& error) {
    const CLI::App* command = active_command(app);
    std::string where = "fucina";
    if (command != &app) where += " " + command->get_name();
    std::string text = one_line(error.what());
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
        const std::vector<std::string> extras = app.remaining(true);
        const std::string word = extras.empty() ? std::string() : extras.front();
        std::vector<std::string> names;
        for (const CLI::Option* option : command->get_options()) {
            for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
        }
        for (const CLI::App* inner :
             command->get_subcommands([](const CLI::App*) { return true; })) {
            names.push_back(inner->get_name());
        }
        text = concat("does not know \"", word, "\"",
                      did_you_mean(word.substr(0, word.find('=')), names));
    }
    return concat(where, ": ", text, "; `", where, " --help` shows its use");
}

Outcome parse_and_run(CLI::App& app, int argc, char** argv) {
    try {
        check_command_name(app, argc, argv);
        app.parse(argc, argv);
        return {};
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) {  // --help and --version arrive as exceptions
            if (process().rank() == 0) app.exit(error);
            return {};
        }
        return {ExitCode::usage, describe(app, error)};
    } catch (const Error& error) {
        return {error.code(), one_line(error.what())};
    } catch (const std::bad_alloc&) {
        return {ExitCode::internal, "out of memory"};
    } catch (const std::exception& error) {
        return {ExitCode::internal, one_line(error.what())};
    }
}

}  // namespace

int run_program(int argc, char** argv, const std::function<void(CLI::App&)>& add_commands) {
    Process& self = process();
    self.start(&argc, &argv);
    CLI::App app("Fucina trains mixture-of-experts language models on CPUs and clusters.",
                 "fucina");
    app.set_version_flag("--version", kVersion);
    app.require_subcommand(1);
    app.failure_message(CLI::FailureMessage::simple);
    add_commands(app);
    return self.finish(parse_and_run(app, argc, argv));
}

}  // namespace fucina
