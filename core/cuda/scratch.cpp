#include "core/cuda/scratch.h"

#include <algorithm>
#include <list>
#include <map>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"

namespace conclave::cuda {
namespace {

constexpr std::size_t kAlignment = 256;                       // cudaMalloc's alignment
constexpr std::size_t kSmallestBlock = std::size_t{1} << 20;  // most operations' scratch fits one such block

struct Block {
  explicit Block(std::size_t size) : bytes(size), memory(size) {}
  std::size_t bytes;
  DeviceMemory memory;
};

}  // namespace

// Blocks in the order in which they are filled. On loan are `used` bytes of block number `block`, and all
// blocks before it.
struct Scratch::Pool {
  std::list<Block> blocks;
  std::size_t block = 0, used = 0;

  static Pool& current() {
    thread_local std::map<cudaStream_t, Pool> pools;
    return pools[current_stream()];
  }
};

Scratch::Scratch() : pool_(Pool::current()), block_(pool_.block), used_(pool_.used) {}

Scratch::~Scratch() {
  pool_.block = block_;
  pool_.used = used_;
}

void* Scratch::allocate(std::size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto& [blocks, block, used] = pool_;
  const auto number = [&](std::size_t place) {
    return std::next(blocks.begin(), static_cast<std::ptrdiff_t>(std::min(place, blocks.size())));
  };
  const std::size_t unused = block + (used > 0 ? 1 : 0);  // the first block with nothing on loan
  auto at = number(block);
  for (; at != blocks.end() && used + bytes > at->bytes; ++at, ++block) used = 0;
  if (at == blocks.end()) {
    // First frees the blocks that this request has outgrown; cudaFree waits for the work that still uses
    // them. Takes an eighth more than requested, because later batches may have a few more rows for an
    // expert.
    blocks.erase(number(unused), blocks.end());
    block = blocks.size();
    at = blocks.emplace(blocks.end(), std::max(bytes + bytes / 8, kSmallestBlock));
  }
  void* result = static_cast<std::byte*>(at->memory.data()) + used;
  used += bytes;
  return result;
}

}  // namespace conclave::cuda
