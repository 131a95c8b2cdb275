// The command line: commands with options, and what is said of mistakes in them. The parser
// (CLI11, whose header alone takes seconds to compile) is seen by command_line.cpp only.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace fucina {

// An option, or a positional argument where the name has no dashes. Every call returns the option,
// so that they can be chained. Handles are cheap to copy.
class Option {
  public:
    Option required() const;
    Option needs(const Option& other) const;     // given only together with it
    Option excludes(const Option& other) const;  // never given together with it
    Option one_of(const std::vector<std::string>& values) const;
    // Both ends included; a value outside, or one that is no finite number, is refused by name.
    Option range(int64_t least, int64_t most) const;
    Option range(double least, double most) const;
    Option path() const;          // ~ is the home directory
    Option one_word() const;      // of a list: one word each time the option is given
    Option hidden() const;        // not in --help
    Option show_default() const;  // in --help, as the value is now

  private:
    friend class Command;
    explicit Option(CLI::Option* option) : option_(option) {}
    CLI::Option* option_;
};

// A command, or a group of commands. The variables that options fill must outlive parse().
class Command {
  public:
    // With a subcommand, one of them must be given.
    Command subcommand(const std::string& name, const std::string& help) const;

    Option option(const std::string& name, std::string& value, const std::string& help = "") const;
    Option option(const std::string& name, std::optional<std::string>& value,
                  const std::string& help = "") const;  // absent is not empty
    Option option(const std::string& name, int64_t& value, const std::string& help = "") const;
    Option option(const std::string& name, uint64_t& value, const std::string& help = "") const;
    Option option(const std::string& name, double& value,
                  const std::string& help = "") const;  // finite
    // Takes all words up to the next option.
    Option option(const std::string& name, std::vector<std::string>& values,
                  const std::string& help = "") const;
    Option flag(const std::string& name, bool& value, const std::string& help = "") const;

    void hidden() const;  // not in --help
    void run(std::function<void()> body) const;

  private:
    friend class CommandLine;
    explicit Command(CLI::App* app) : app_(app) {}
    CLI::App* app_;
};

class CommandLine {
  public:
    CommandLine(const std::string& name, const std::string& description,
                const std::string& version);
    ~CommandLine();

    Command root();

    // Runs the chosen command's body, or prints what --help and --version ask for if `speaks`.
    // A mistake in the arguments throws Error(usage): one line that names the command and its
    // --help; what the body throws goes through.
    void parse(int argc, char** argv, bool speaks);

  private:
    std::unique_ptr<CLI::App> app_;
};

}  // namespace fucina
