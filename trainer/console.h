// What a run says: to standard output, and to log.txt once there is one. Only rank 0 speaks.
#pragma once
#include <cstdio>
#include <string>

namespace fucina {

class Console {
  public:
    explicit Console(bool speaks);
    ~Console();
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    // Appends what was said so far, and everything from now on, to this file. A full disk silences
    // the log, never the run; a file that cannot be opened is said.
    void open_log(const std::string& path);

    void line(const std::string& text) { line(text, text); }
    // A terminal shows `colours` instead.
    void line(const std::string& text, const std::string& colours);
    // A line that the next one replaces on a terminal; elsewhere a line like any other.
    void progress(const std::string& text);

  private:
    void clear_progress();
    void log(const std::string& text);

    const bool speaks_, terminal_;
    bool redraws_ = false;  // a progress line stands on the terminal
    bool keeps_ = true;     // there is no log yet
    std::string unlogged_;
    std::FILE* log_ = nullptr;
};

}  // namespace fucina
