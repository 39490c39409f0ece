// Plug-ins with one mistake each; FAULT_... chooses the mistake.
#include <filesystem>
#include <stdexcept>

#include "parallel/moe/expert.h"

namespace conclave {
void nowhere_defined();
}

namespace {

struct FaultyExpert : conclave::BaseExpert {
  explicit FaultyExpert(const conclave::ExpertOptions& options) : BaseExpert(options) {
#ifdef FAULT_FACTORY
    throw std::runtime_error("the factory's own words");
#endif
  }
  conclave::Tensor forward(conclave::Tape&, const conclave::ExpertInput& input) override {
#ifdef FAULT_FORWARD
    if (input.rows.size(0) > 0) throw std::runtime_error("the forward pass's own words");
#endif
#ifdef FAULT_LATE
    if (std::filesystem::exists("fault")) throw std::runtime_error("the forward pass's own words");
    return input.rows;
#endif
#ifdef FAULT_UNRESOLVED
    conclave::nowhere_defined();
#endif
    return input.rows.rows(0, input.rows.size(0) / 2);
  }
};

#ifdef FAULT_TAKEN
CONCLAVE_REGISTER_EXPERT("gated", FaultyExpert);
#elif defined(FAULT_NOTHING)
[[gnu::used]] const char* mark() { return conclave_plugin_abi; }
#else
CONCLAVE_REGISTER_EXPERT("faulty", FaultyExpert);
#endif

#ifdef FAULT_STATIC
const struct Thrower {
  Thrower() { throw std::runtime_error("the constructor's own words"); }
} thrower;
#endif

}  // namespace
