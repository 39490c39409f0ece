#include "autograd/nn/key_value_cache.h"

#include <algorithm>
#include <utility>

#include "autograd/functions/functions.h"
#include "core/kernels/embedding.h"

namespace conclave {

KeyValueCache::KeyValueCache(Arena& arena, Index layers, Index sequences, Index rows, Index hidden,
                             DType dtype)
    : most_sequences_(sequences),
      most_rows_(rows),
      sequences_(sequences),
      memory_(arena.empty({layers + 1, sequences * rows, 2 * hidden}, dtype)) {}

void KeyValueCache::extend(Tape& tape, std::span<const std::int32_t> parents, Index rows) {
  const auto count = static_cast<Index>(parents.size());
  require(!tape.recording(), "key-value cache: it is for inference; use a tape that does not record");
  require(count <= most_sequences_ && rows_ + rows <= most_rows_,
          "key-value cache: {} sequences of {} rows, but there is room for {} of {}", count, rows_ + rows,
          most_sequences_, most_rows_);
  const auto [least, most] = std::ranges::minmax_element(parents);
  require(count > 0 && *least >= 0 && *most < sequences_,
          "key-value cache: {} sequences continue sequences that are not among the {} there are", count,
          sequences_);
  const Index before = rows_;
  kept_ = before > 0 ? sequences_ * before : 0;
  sequences_ = count;
  rows_ += rows;
  ++passes_;
  appended_ = 0;
  Arena& arena = tape.arena();
  host_offsets_ = functions::even_offsets(tape, count, rows);
  offsets_ = tape.on_device(host_offsets_);
  key_offsets_ = tape.on_device(functions::even_offsets(tape, count, rows_));
  // Row numbers among the cached rows followed by the rows of this pass.
  const Tensor places = arena.empty_on_host({count * rows_}, DType::i32);
  auto* place = places.data<std::int32_t>();
  for (Index i = 0; i < count; ++i) {
    const Index first = parents[static_cast<std::size_t>(i)] * before;
    for (Index row = 0; row < before; ++row) *place++ = static_cast<std::int32_t>(first + row);
    for (Index row = 0; row < rows; ++row) *place++ = static_cast<std::int32_t>(kept_ + i * rows + row);
  }
  places_ = tape.on_device(places);
}

Tensor KeyValueCache::append(Index layer, const Tensor& key_value) {
  const Index places = memory_.size(0), all = kept_ + key_value.size(0);
  require(layer == appended_ && layer + 1 < places,
          "key-value cache: layer {} of {} is appended, where layer {} is next in this pass", layer,
          places - 1, appended_);
  ++appended_;
  // Before the first pass, layer 0 is in place 0, and the last place is spare. Each pass moves a layer one
  // place back.
  const auto place = [&](Index ahead) {
    const Index number = ((layer - ahead) % places + places) % places;
    return memory_.rows(number, number + 1).reshape({memory_.size(1), memory_.size(2)});
  };
  const Tensor kept = place(passes_ - 1);
  kept.rows(kept_, all).queue_copy_from(key_value);
  const Tensor appended = place(passes_).rows(0, sequences_ * rows_);
  kernels::embedding(places_, kept.rows(0, all), appended);
  return appended;
}

}  // namespace conclave
