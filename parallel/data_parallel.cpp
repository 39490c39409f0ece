#include "parallel/data_parallel.h"

#include <algorithm>

namespace conclave {

GradientReducer::GradientReducer(ParameterSet& parameters, const ProcessGrid& grid, std::size_t bucket_bytes,
                                 Index most_elements)
    : parameters_(parameters) {
  struct Member {
    Parameter* parameter;
    Index begin, end;
    int place;
  };
  std::vector<std::vector<Parameter*>> members_of;  // parameters of each bucket
  for (const auto& segment : parameters.segments()) {
    Communicator& group = segment.sharded ? grid.data_group() : grid.world();
    if (group.size() == 1) continue;
    std::vector<Member> members;
    const auto& all = parameters.parameters();
    for (std::size_t place = 0; place < all.size(); ++place) {
      Parameter& parameter = *all[place];
      if (parameter.sharded != segment.sharded || parameter.decay != segment.decay) continue;
      if (parameter.value.numel() == 0)
        continue;  // a kind whose experts are on other ranks: no pass uses it here
      const auto offset = static_cast<const std::byte*>(parameter.value.raw()) -
                          static_cast<const std::byte*>(segment.values.raw());
      const Index begin = static_cast<Index>(offset) / static_cast<Index>(size_of(segment.values.dtype()));
      members.push_back({&parameter, begin, begin + parameter.value.numel(), static_cast<int>(place)});
    }
    std::ranges::sort(members, {}, &Member::begin);
    for (std::size_t i = 0; i < members.size();) {
      const std::size_t first = i;
      Bucket bucket{.pieces = {}, .group = &group};
      bucket.last_to_finish = members[i].place;
      members_of.emplace_back();
      do {
        bucket.last_to_finish = std::min(bucket.last_to_finish, members[i].place);
        members_of.back().push_back(members[i].parameter);
        ++bucket.parameters;
        ++i;
      } while (i < members.size() && static_cast<std::size_t>(members[i].end - members[first].begin) *
                                             size_of(segment.values.dtype()) <=
                                         bucket_bytes);
      for (Index begin = members[first].begin, end = members[i - 1].end; begin < end; begin += most_elements)
        bucket.pieces.push_back(
            {segment.gradients.slice(0, begin, std::min(begin + most_elements, end)), {}});
      buckets_.push_back(std::move(bucket));
    }
  }
  // Collectives must start in the same order on every rank: the order in which backward should finish the
  // buckets.
  std::vector<std::size_t> order(buckets_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return buckets_[i].last_to_finish; });
  std::vector<Bucket> sorted;
  std::size_t total = 0;
  for (const std::size_t i : order) total += members_of[i].size();
  hooks_.reserve(total);
  for (const std::size_t i : order) {
    for (Parameter* parameter : members_of[i]) {
      hooks_.push_back({this, sorted.size()});
      parameter->slot.context = &hooks_.back();
      parameter->slot.on_ready = [](void* context, GradientSlot&) {
        const Hook& hook = *static_cast<Hook*>(context);
        hook.reducer->ready(hook.bucket);
      };
    }
    sorted.push_back(std::move(buckets_[i]));
  }
  buckets_ = std::move(sorted);
}

GradientReducer::~GradientReducer() {
  for (Parameter* parameter : parameters_.parameters()) {
    parameter->slot.on_ready = nullptr;
    parameter->slot.context = nullptr;
  }
}

void GradientReducer::arm() {
  armed_ = true;
  next_ = 0;
  for (Bucket& bucket : buckets_) bucket.waiting = bucket.parameters;
}

void GradientReducer::ready(std::size_t bucket) {
  if (!armed_) return;
  --buckets_[bucket].waiting;
  start_ready();
}

void GradientReducer::start_ready() {
  for (; next_ < buckets_.size() && buckets_[next_].waiting <= 0; ++next_)
    for (Piece& piece : buckets_[next_].pieces)
      piece.request = buckets_[next_].group->start_all_reduce(piece.gradients);
  for (std::size_t i = 0; i < next_; ++i)
    if (buckets_[i].group->needs_calls())
      for (Piece& piece : buckets_[i].pieces) piece.request.test();
}

void GradientReducer::finish() {
  for (Bucket& bucket : buckets_)
    bucket.waiting = 0;  // the gradient of a parameter that no pass used is zero
  start_ready();
  for (Bucket& bucket : buckets_)
    for (Piece& piece : bucket.pieces) piece.request.wait();
  armed_ = false;
}

std::size_t GradientReducer::pieces() const {
  std::size_t count = 0;
  for (const Bucket& bucket : buckets_) count += bucket.pieces.size();
  return count;
}

}  // namespace conclave
