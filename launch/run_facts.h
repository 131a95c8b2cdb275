// facts.json in a run directory: what report.html says of a run beside its curves.
#pragma once
#include "launch/process.h"
#include "trainer/run.h"

namespace fucina {

// Written at each start; a disk that refuses costs the report these lines, nothing else.
void write_run_facts(const TrainingRun& run, const Process& process);

}  // namespace fucina
