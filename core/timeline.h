// What a thread does when, as spans with names: a picture of one training step. Nothing is recorded unless a
// Timeline exists; the places that tell it then cost one look at a pointer each.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/device.h"

namespace conclave {

/// Records what the thread that made it does, until it is destroyed; one at a time on a thread.
class Timeline {
 public:
  static constexpr const char* kCommunication = "communication";

  struct Span {
    const char* name = "";
    const char* where = "";     ///< the part of the model, "layers.0.moe"; "" if it is not of one
    const char* kind = "";      ///< "step", "forward", "backward" or kCommunication
    double begin = 0, end = 0;  ///< seconds since the Timeline was made
  };

  /// Work queued on `device` is waited for at the end of each span, so that spans have the device's times; a
  /// step then takes longer. Spans beyond `room` are counted and not kept.
  explicit Timeline(Device device, std::size_t room = 1 << 16);
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  /// This thread's, or null.
  static Timeline* recording();

  /// A span from the end of the last such span, or from the last restart(), to the present: for work whose
  /// end alone is known. The strings must outlive the Timeline.
  void follow(const char* name, const char* kind, const char* where);
  void restart() { followed_ = elapsed(); }

  /// In order of their ends.
  std::span<const Span> spans() const { return spans_; }
  /// Spans that found no room.
  std::size_t lost() const { return lost_; }

  /// A span from its construction to its destruction, if the thread records. The strings must outlive the
  /// Timeline, which must outlive this.
  class Scope {
   public:
    Scope(const char* name, const char* kind, const char* where = "")
        : timeline_(recording()), name_(name), kind_(kind), where_(where) {
      if (timeline_) [[unlikely]]
        begin_ = timeline_->elapsed();
    }
    ~Scope() {
      if (timeline_) [[unlikely]]
        end();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    void end() noexcept;

    Timeline* timeline_;
    const char *name_, *kind_, *where_;
    double begin_ = 0;
  };

 private:
  double elapsed() const;
  void add(const char* name, const char* kind, const char* where, double begin);

  Device device_;
  double start_;
  double followed_ = 0;
  std::vector<Span> spans_;
  std::size_t lost_ = 0;
};

}  // namespace conclave
