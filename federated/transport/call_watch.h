// The calls of sites that are under way. One site has room for a few, so that it cannot take the threads of
// the others; and a call ends, wherever it hangs, once its site is let in no longer, or when it has said
// nothing, or taken nothing, for too long.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "core/clock.h"
#include "core/error.h"
#include "federated/identity.h"

namespace conclave {

/// A site makes one call at a time. Those of its last connection may hang until that is known to be lost.
inline constexpr std::size_t kMostCalls = 8;

/// They are to end first; then it may be called again.
class TooManyCalls : public Error {
 public:
  using Error::Error;
};

class CallWatch {
 public:
  /// `silence`: how long a call may wait for its site, which has to send or to take one chunk meanwhile.
  CallWatch(AllowList allowed, Clock::duration silence);

  bool lets_in(const CertificateInfo& certificate) const;

  class Call {
   public:
    /// Throws TooManyCalls. `context` must outlive it.
    Call(CallWatch& watch, grpc::ServerContext& context, CertificateInfo certificate);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    /// f(), which waits for the site.
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
    std::list<Call*>::iterator place_;
  };

 private:
  void end_calls();

  AllowList allowed_;
  Clock::duration silence_;
  std::mutex mutex_;
  std::list<Call*> calls_;
  std::jthread thread_;  // the last, as it uses the others
};

}  // namespace conclave
