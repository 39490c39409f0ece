#include "recipes/models/task.h"

namespace conclave {

double Task::flops(Extent& extent) const {
  double sum = 0;
  for (const Cost& cost : costs(extent.rows())) sum += cost.flops;
  extent = {};
  return sum;
}

}  // namespace conclave
