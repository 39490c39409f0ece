// Sets the precision of products for the lifetime of an object; f32 afterwards.
#pragma once

#include "core/precision.h"

namespace conclave {

struct PrecisionScope {
  explicit PrecisionScope(Precision chosen) { set_precision(chosen); }
  ~PrecisionScope() { set_precision(Precision::f32); }
};

}  // namespace conclave
