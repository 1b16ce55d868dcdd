// The mutation suite: whoever is named for a mutant finds it, nobody else does before, and the
// kernels without bugs are found clean in every mode. One program for the plain build, one for the
// race build.
#include <cstring>

#include "emulator.h"
#include "mutants.h"
#include "race.h"

using namespace polylora;
using namespace polylora::mutations;

namespace polylora::mutations {

constexpr const char* kNames[] = {"nobody",     "values",    "deadlock", "misuse",
                                  "unfinished", "guards",    "bounds",   "never written",
                                  "race",       "in flight", "the proxy"};

const char* name_of(Detector detector) { return kNames[int(detector)]; }

Detector detector_of(const std::string& report) {
  const auto says = [&](const char* words) { return report.find(words) != std::string::npos; };
  if (says("race: ")) return Detector::race;
  if (says("in flight: ")) return Detector::in_flight;
  if (says("never written: ")) return Detector::never_written;
  if (says("proxy: ")) return Detector::proxy;
  if (says("out of bounds: ") || says("outside every")) return Detector::bounds;
  if (says("deadlock: ")) return Detector::deadlock;
  if (says("ended while")) return Detector::unfinished;
  if (says("was written ") && says(" behind ")) return Detector::guards;
  return Detector::misuse;
}

}  // namespace polylora::mutations

int main(int count, char** arguments) {
  const bool is_verbose = count > 1 && !std::strcmp(arguments[1], "--verbose");
  std::vector<Mutant> all = mutants();
  for (Mutant& mutant : async_mutants()) all.push_back(std::move(mutant));
  emulator::Settings& settings = emulator::settings();
  for (const Mutant& mutant : all) {
    for (int mode = 0; mode < (emulator::race::kOn ? 3 : 6); ++mode) {
      settings.mode = mode == 0   ? emulator::Mode::lazy
                      : mode == 1 ? emulator::Mode::eager
                                  : emulator::Mode::random;
      settings.seed = uint64_t(mode);
      const Detector found = mutant.run(false);
      cuda_test::expect(
          found == Detector::nobody,
          std::string(mutant.name) + ", without the bug: " + name_of(found) + " complains");
    }
    settings.mode = emulator::Mode::lazy;
    const Detector wanted = emulator::race::kOn ? mutant.race : mutant.plain;
    const Detector found = mutant.run(true);
    cuda_test::expect(found == wanted, std::string(mutant.name) + ": found by " + name_of(found) +
                                           ", must be by " + name_of(wanted));
    cuda_test::expect(mutant.plain != Detector::nobody || mutant.race != Detector::nobody,
                      std::string(mutant.name) + ": nobody is named");
    if (is_verbose) std::printf("  %s: %s\n", mutant.name, name_of(found));
  }
  return cuda_test::report();
}
