#include "parallel/moe/mixed_experts.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "core/text.h"

namespace conclave {
namespace {

// Calls one kind's forward and checks its result. Errors name the kind.
Tensor checked_forward(Tape& tape, BaseExpert& experts, const ExpertInput& input) {
  Tensor y;
  try {
    y = experts.forward(tape, {input.rows, input.offsets,
                               experts.wants_sequences() ? input.sequences : kernels::RowOffsets{}});
  } catch (const std::exception& error) {
    fail("{}: forward: {}", experts.described(), error.what());
  } catch (...) {
    fail("{}: forward throws no std::exception", experts.described());
  }
  const Tensor& rows = input.rows;
  if (y.shape() == rows.shape() && y.dtype() == rows.dtype() && y.contiguous()) return y;
  fail("{}: forward returned {} {}{}, expected {} {}, a row for each that came", experts.described(),
       name_of(y.dtype()), y.shape(), y.contiguous() ? "" : " (strided)", name_of(rows.dtype()),
       rows.shape());
}

// Subtracts `first` from all offsets, which begin with `first`.
kernels::RowOffsets from(Tape& tape, kernels::RowOffsets offsets, Index first) {
  const auto moved = tape.arena().copy(offsets);
  for (Index& offset : moved) offset -= first;
  return moved;
}

// While an object lives, the module's parameters have no gradient slots.
class Unwatched {
 public:
  explicit Unwatched(const Module& module) : parameters_(module.named_parameters()) {
    for (const auto& [name, parameter] : parameters_) parameter->value.slot = nullptr;
  }
  ~Unwatched() {
    for (const auto& [name, parameter] : parameters_) parameter->value.slot = &parameter->slot;
  }
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;

 private:
  std::vector<std::pair<std::string, Parameter*>> parameters_;
};

// The memory that forward takes, and backward if `recording`, for `count` rows that all belong to one expert
// and to as many sequences as possible.
Arena::Bytes bytes_for(Arena& arena, BaseExpert& experts, Index local, Index count, const Tensor& like,
                       bool recording) {
  const Unwatched unwatched(experts);
  const ArenaScope scope(arena);
  Tape tape(arena, recording);
  Tensor rows = arena.zeros({count, like.size(1)}, like.dtype());
  const ArenaTrial trial(arena);
  if (recording) tape.watch(rows);
  std::vector<Index> offsets(static_cast<std::size_t>(local) + 1, count);
  offsets.front() = 0;
  std::vector<Index> sequences(static_cast<std::size_t>(count) + 1);
  std::iota(sequences.begin(), sequences.end(), Index{0});
  const Tensor y = checked_forward(tape, experts, {rows, offsets, sequences});
  if (y.slot) tape.backward(y, rows);
  synchronize(tape.device());  // it may still have to copy tables from memory that is released now
  return trial.taken();
}

}  // namespace

std::vector<ExpertShare> expert_shares(const std::string& text, Index experts) {
  constexpr const char* kHow = "name one kind for all, or how many of each: \"6 feed_forward, 2 gated\"";
  std::vector<ExpertShare> shares;
  const bool one = text.find_first_of(" ,") == std::string::npos;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = trimmed(std::string_view(text).substr(begin, end - begin), " ");
    begin = end + 1;
    Index count = one ? experts : 0;
    const char* rest = part.data();
    if (!one) rest = std::from_chars(part.data(), part.data() + part.size(), count).ptr;
    const std::string_view kind =
        trimmed({rest, static_cast<std::size_t>(part.data() + part.size() - rest)}, " ");
    require(count > 0 && !kind.empty() && kind.find(' ') == kind.npos && (one || rest[0] == ' '),
            "\"{}\" is not a number of experts and their kind; {}", part, kHow);
    require(std::ranges::none_of(shares, [&](const auto& share) { return share.kind == kind; }),
            "kind '{}' is given twice; add the two numbers up", kind);
    shares.push_back({std::string(kind), count});
  }
  Index sum = 0;
  for (const auto& [kind, count] : shares)
    require(!__builtin_add_overflow(sum, count, &sum), "there cannot be {} experts", count);
  require(sum == experts, "these are {} experts, and the layer has {}; make them as many, or change either",
          sum, experts);
  return shares;
}

MixedExperts::MixedExperts(const std::vector<ExpertShare>& shares, const ExpertOptions& options) {
  Index before = 0;
  for (const auto& [name, total] : shares) {
    ExpertOptions kind = options;
    const auto within = [&](Index expert) { return std::clamp<Index>(expert - before, 0, total); };
    kind.first = within(options.first);
    kind.count = within(options.first + options.count) - kind.first;
    kind.total = total;
    kinds_.push_back({make_experts(name, kind), before, total, kind.count});
    add_module(shares.size() == 1 ? "" : name, *kinds_.back().experts);
    for (const auto& [parameter_name, parameter] : kinds_.back().experts->named_parameters()) {
      // On a rank without experts of the kind, backward would not reach it, and that rank would start its
      // sum, and all sums after it, at another time than other ranks do.
      require(parameter->sharded || shares.size() == 1,
              "experts of kind '{}': parameter {} is not per expert, which works only without other kinds; "
              "make it by add_expert_parameter()",
              name, parameter_name);
      if (parameter->sharded) parameters_.push_back({parameter, before + parameter->first_row});
    }
    before += total;
  }
  for (Kind& kind : kinds_)
    if (kind.local > 0) present_.push_back(&kind);
}

double MixedExperts::flops(Extent& extent) const {
  double sum = 0, experts = 0;
  for (const Kind& kind : kinds_) {
    sum += static_cast<double>(kind.total) * kind.experts->flops_per_row();
    experts += static_cast<double>(kind.total);
  }
  return static_cast<double>(extent.rows()) * sum / experts;
}

bool MixedExperts::wants_sequences() const {
  return std::ranges::any_of(kinds_, [](const Kind& kind) { return kind.experts->wants_sequences(); });
}

Tensor MixedExperts::forward(Tape& tape, const ExpertInput& input) {
  const Arena::Bytes before = tape.arena().mark();
  const Tensor y = forward_from(tape, 0, input);
  if (tape.planning() && (present_.size() > 1 || wants_sequences())) {
    // Memory for splitting and joining rows between each kind and the next.
    constexpr std::size_t kLine = 64;
    const std::size_t rows = input.rows.bytes(),
                      offsets = input.offsets.size_bytes() + input.sequences.size_bytes() + 4 * kLine,
                      between = present_.size() - 1;
    const bool beside = tape.device() != Device::cpu;  // offsets are in host memory
    const Arena::Bytes dividing{between * (rows + (beside ? 0 : offsets)), beside ? between * offsets : 0};
    const Arena::Bytes most = most_bytes(tape, input.rows), taken = tape.arena().mark();
    const auto missing = [](std::size_t wanted, std::size_t had) { return wanted - std::min(wanted, had); };
    tape.arena().take({missing(most.tensors + dividing.tensors, taken.tensors - before.tensors),
                       missing(most.host + dividing.host, taken.host - before.host)});
  }
  return y;
}

// Computes the rows of present_[number] and of all kinds after it.
Tensor MixedExperts::forward_from(Tape& tape, std::size_t number, const ExpertInput& input) {
  const Kind& kind = *present_[number];
  if (number + 1 == present_.size()) return checked_forward(tape, *kind.experts, input);
  const auto local = static_cast<std::size_t>(kind.local);
  const Index at = input.offsets[local];
  const auto [head, tail] = functions::split_rows(tape, input.rows, at);
  // The runs of this kind. No run continues into the next kind, because a run belongs to one expert.
  const auto runs =
      static_cast<std::size_t>(std::ranges::lower_bound(input.sequences, at) - input.sequences.begin());
  const auto own_runs = input.sequences.first(std::min(runs + 1, input.sequences.size()));
  const kernels::RowOffsets other_runs = from(tape, input.sequences.subspan(runs), at);
  const ExampleRows all = tape.examples();
  const ExampleScope scope(tape, all);
  if (all) tape.set_example_rows({{own_runs}, all.examples.first(runs), all.gradients});
  const Tensor first = checked_forward(tape, *kind.experts, {head, input.offsets.first(local + 1), own_runs});
  if (all) tape.set_example_rows({{other_runs}, all.examples.subspan(runs), all.gradients});
  const Tensor others =
      forward_from(tape, number + 1, {tail, from(tape, input.offsets.subspan(local), at), other_runs});
  return functions::join_rows(tape, first, others);
}

// The worst case of routing: all rows go to the kind that takes most memory for them, and the other kinds get
// none.
Arena::Bytes MixedExperts::most_bytes(Tape& tape, const Tensor& rows) {
  Arena::Bytes none, most;
  for (const Kind* kind : present_) {
    const auto bytes = [&](Index count) {
      return bytes_for(tape.arena(), *kind->experts, kind->local, count, rows, tape.recording());
    };
    const Arena::Bytes least = bytes(0), all = bytes(rows.size(0));
    for (std::size_t Arena::Bytes::*part : {&Arena::Bytes::tensors, &Arena::Bytes::host}) {
      none.*part += least.*part;
      most.*part = std::max(most.*part, all.*part - std::min(all.*part, least.*part));
    }
  }
  return {none.tensors + most.tensors, none.host + most.host};
}

}  // namespace conclave
