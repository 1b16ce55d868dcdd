// Planted bugs. Every mutant is a small kernel that is right or, `broken`, has one bug, and names
// who must find it: in the plain build (lazy) and in the race build. `nobody` says that this build
// cannot, so that the other one must.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cuda_test.h"

namespace polylora::mutations {

enum class Detector {
  nobody,
  values,         // the result is wrong: a copy that lands late, NaNs where nothing was written
  deadlock,       // threads that wait for each other
  misuse,         // an instruction whose rules are broken
  unfinished,     // copies or wgmma in flight at the end
  guards,         // bytes behind an array were written
  bounds,         // an address outside its array
  never_written,  // race mode: shared memory that is read and was not written
  race,           // race mode: accesses without order
  in_flight,      // race mode: an access where a copy has not landed
  proxy           // race mode: the async proxy reads what no fence has shown to it
};

const char* name_of(Detector detector);
// Who found what a stream reported.
Detector detector_of(const std::string& report);

struct Mutant {
  const char* name;
  Detector plain, race;
  std::function<Detector(bool broken)> run;
};

// mutants.cu: threads, barriers, warps, bounds; mutants_async.cu: what runs beside them.
std::vector<Mutant> mutants();
std::vector<Mutant> async_mutants();

// How the launch ended, `to` holding `wanted` or not.
template <class T>
Detector outcome(cuda_test::TestStream& stream, cuda_test::Array<T>& to,
                 const std::vector<T>& wanted) {
  const std::string report = stream.finish();
  if (!report.empty()) {
    static_cast<void>(to.free());
    return detector_of(report);
  }
  const std::vector<T> found = to.read(stream);
  const std::string behind = to.free();
  if (!behind.empty()) return detector_of(behind);
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!(found[i] == wanted[i])) return Detector::values;
  return Detector::nobody;
}

}  // namespace polylora::mutations
