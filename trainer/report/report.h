// report.html: a run on one self-contained page, made from what stands in its directory.
#pragma once
#include <string>

namespace fucina {

// Reads RUN_DIR/metrics.jsonl, and where they exist recipe.resolved.toml, facts.json (an object of
// strings and numbers, shown in its order) and samples.jsonl ({"step", "prompt", "text"} a line).
// Error(data) if the run has recorded no step.
std::string report_html(const std::string& run_dir);

// Writes RUN_DIR/report.html, whole or not at all; returns its path. Error(storage) if it cannot.
std::string write_report(const std::string& run_dir);

}  // namespace fucina
