// A precision of products for as long as this lives.
#pragma once

#include "core/precision.h"

namespace conclave {

struct PrecisionScope {
  explicit PrecisionScope(Precision chosen) { set_precision(chosen); }
  ~PrecisionScope() { set_precision(Precision::f32); }
};

}  // namespace conclave
