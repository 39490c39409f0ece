#include "core/timeline.h"

#include "core/clock.h"
#include "core/error.h"

namespace conclave {
namespace {

thread_local Timeline* recording_timeline = nullptr;

}  // namespace

Timeline* Timeline::recording() { return recording_timeline; }

Timeline::Timeline(Device device, std::size_t room) : device_(device), start_(now()) {
  require(recording_timeline == nullptr, "timeline: this thread records one already");
  spans_.reserve(room);
  recording_timeline = this;
}

Timeline::~Timeline() { recording_timeline = nullptr; }

double Timeline::elapsed() const { return now() - start_; }

void Timeline::follow(const char* name, const char* kind, const char* where) {
  add(name, kind, where, followed_);
  restart();
}

void Timeline::Scope::end() noexcept {
  try {
    timeline_->add(name_, kind_, where_, begin_);
  } catch (const Error&) {
    // The device has failed; the next call on it reports that.
  }
}

void Timeline::add(const char* name, const char* kind, const char* where, double begin) {
  synchronize(device_);
  if (spans_.size() == spans_.capacity())
    ++lost_;
  else
    spans_.push_back({.name = name, .where = where, .kind = kind, .begin = begin, .end = elapsed()});
}

}  // namespace conclave
