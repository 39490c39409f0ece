// Shared by all engines: the lifetime of a Request, and the conveniences for set-up and control, which use
// the tensor operations on small borrowed buffers.
#include "parallel/communicator.h"

#include <algorithm>
#include <utility>

#include "core/timeline.h"

namespace conclave {

Request::Request(Request&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)),
      native_(std::exchange(other.native_, nullptr)),
      slot_(std::exchange(other.slot_, -1)) {}

Request& Request::operator=(Request&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(native_, other.native_);
  std::swap(slot_, other.slot_);
  return *this;
}

Request::~Request() {
  try {
    wait();
  } catch (const Error&) {
    // The operation has failed and no longer touches its buffers. The next call on the communicator reports
    // the error.
  }
}

void Request::wait() {
  if (owner_ == nullptr) return;
  const Timeline::Scope timed("wait", Timeline::kCommunication);
  finish(true);
}

bool Request::test() { return finish(false); }

bool Request::finish(bool block) {
  if (owner_ == nullptr) return true;
  Communicator* owner = owner_;
  owner_ = nullptr;  // an operation that fails is finished as well
  if (owner->finish(native_, slot_, block)) return true;
  owner_ = owner;
  return false;
}

bool Communicator::finish(void*&, int, bool) { return true; }

Index Communicator::sum(Index value) {
  all_reduce(Tensor::borrow(&value, {1}, DType::i64), Reduction::sum);
  return value;
}

Index Communicator::max(Index value) {
  all_reduce(Tensor::borrow(&value, {1}, DType::i64), Reduction::max);
  return value;
}

double Communicator::sum(double value) {
  all_reduce(Tensor::borrow(&value, {1}, DType::f64), Reduction::sum);
  return value;
}

double Communicator::max(double value) {
  all_reduce(Tensor::borrow(&value, {1}, DType::f64), Reduction::max);
  return value;
}

std::string Communicator::broadcast(const std::string& text, int root) {
  Index length = static_cast<Index>(text.size());
  broadcast(Tensor::borrow(&length, {1}, DType::i64), root);
  std::string result = text;
  result.resize(static_cast<std::size_t>(length));
  broadcast(Tensor::borrow(result.data(), {length}, DType::u8), root);
  return result;
}

std::vector<std::string> Communicator::all_gather(const std::string& text) {
  const auto ranks = static_cast<std::size_t>(size());
  Index length = static_cast<Index>(text.size());
  std::vector<Index> lengths(ranks);
  all_gather(Tensor::borrow(&length, {1}, DType::i64), Tensor::borrow(lengths.data(), {size()}, DType::i64));

  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::string padded = text, gathered(longest * ranks, '\0');
  padded.resize(longest);
  const Index extent = static_cast<Index>(longest);
  all_gather(Tensor::borrow(padded.data(), {extent}, DType::u8),
             Tensor::borrow(gathered.data(), {extent * size()}, DType::u8));

  std::vector<std::string> result(ranks);
  for (std::size_t r = 0; r < ranks; ++r)
    result[r] = gathered.substr(r * longest, static_cast<std::size_t>(lengths[r]));
  return result;
}

}  // namespace conclave
