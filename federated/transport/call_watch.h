// The calls of sites that are in progress. A site may have a few at a time, so that it cannot occupy the
// threads of other sites. A call is cancelled, wherever it hangs, when its site's certificate is no longer
// accepted, or when the site has not sent or taken anything for too long.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "core/clock.h"
#include "core/error.h"
#include "federated/identity.h"

namespace conclave {

/// A site makes one call at a time. Calls of its previous connection may hang until that connection is known
/// to be lost. Calls are counted by certificate, so that a revoked one uses none of those of its successor.
inline constexpr std::size_t kMostCalls = 8;

/// The site has kMostCalls calls in progress. When one of them has ended, it may call again.
class TooManyCalls : public Error {
 public:
  using Error::Error;
};

class CallWatch {
 public:
  /// `silence`: how long a call may wait for its site to send or take one chunk.
  /// `after_look` is called twice a second, by this object's thread.
  CallWatch(AllowList allowed, Clock::duration silence, std::function<void()> after_look = {});

  /// Reads the list.
  bool lets_in(const CertificateInfo& certificate) const;

  /// For tests: number of calls begun so far, and how often the calls in progress were checked against the
  /// list.
  std::size_t begun() const { return begun_; }
  std::size_t looks() const { return looks_; }

  class Call {
   public:
    /// Throws TooManyCalls. `context` must outlive this.
    Call(CallWatch& watch, grpc::ServerContext& context, CertificateInfo certificate);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    /// Whether the certificate was not in the list, or had expired, when calls were last checked, which
    /// happens twice a second.
    bool is_turned_out() const { return turned_out_; }
    /// Whether is_turned_out(), or the call was cancelled, or its connection is lost. Reads no file.
    bool has_ended() const { return turned_out_ || context_.IsCancelled(); }

    /// Calls f(), which waits for the site; CallWatch cancels the call if that takes too long.
    template <class F>
    auto wait_for_site(F f) {
      set_waiting(true);
      const auto result = f();
      set_waiting(false);
      return result;
    }

   private:
    friend class CallWatch;
    void set_waiting(bool waiting);
    CallWatch& watch_;
    grpc::ServerContext& context_;
    CertificateInfo certificate_;
    std::optional<Clock::time_point> waiting_since_;
    std::atomic<bool> turned_out_{false};
    std::list<Call*>::iterator place_;
  };

 private:
  void end_calls();

  AllowList allowed_;
  Clock::duration silence_;
  std::mutex mutex_;
  std::list<Call*> calls_;
  std::atomic<std::size_t> begun_{0}, looks_{0};
  std::function<void()> after_look_;
  std::jthread thread_;  // last, so that it ends before the members that it uses
};

}  // namespace conclave
