// Marks in the run folder that keep a restarted rank from doing again what must not be done again.
//
// A launcher starts a job's processes anew whatever they ended with. After a preemption that would
// use up the grace time; after an error that no restart mends it would repeat it until the restarts
// are used up. The mark makes such a process end at once with the same exit code; a new job takes
// it away.

#pragma once
#include <string>

#include "base/env.h"
#include "base/error.h"
#include "dist/launch.h"

namespace keiko::train {

// RUN/PREEMPTED (exit code 75) or RUN/FATAL, after errors of kinds that restarting cannot mend; for
// other kinds, and without a launcher that restarts, nothing. Never throws: the process is ending.
void leave_mark(Env* env, const std::string& run_folder, const dist::LaunchEnvironment& launch,
                ErrorKind kind, const std::string& message);

// A restarted process of the job that left a mark: throws Error of the kind that was left, with its
// message. Any other process removes marks. Rank 0 removes, before the others go on. Throws
// Error(kIo).
void heed_marks(Env* env, const std::string& run_folder, const dist::LaunchEnvironment& launch);

}  // namespace keiko::train
