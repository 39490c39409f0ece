#include "recipes/models/planning.h"

#include <vector>

namespace conclave {

void plan_passes(std::span<const std::pair<std::string, MoeLayer*>> layers, Communicator& world,
                 std::span<const std::function<void()>> passes) {
  const auto dispatched = [&] {
    Index rows = 0;
    for (const auto& [name, layer] : layers) rows += layer->dispatcher().capacity();
    world.all_reduce(Tensor::borrow(&rows, {1}, DType::i64));
    return rows;
  };
  std::vector<Index> planned(passes.size(), -1);
  for (bool grows = true; grows;) {
    grows = false;
    for (std::size_t i = 0; i < passes.size(); ++i) {
      if (planned[i] == dispatched()) continue;
      passes[i]();
      planned[i] = dispatched();
      grows = true;
    }
  }
}

}  // namespace conclave
