#include "federated/transport/call_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <ctime>
#include <map>
#include <string>

namespace conclave {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(500);

// TLS checks the expiry of a certificate when a connection begins, and this connection may be older.
bool is_let_in(const CertificateInfo& certificate, const std::map<std::string, std::string>& allowed) {
  const auto found = allowed.find(certificate.fingerprint);
  return found != allowed.end() && found->second == certificate.name &&
         certificate.not_after > std::time(nullptr);
}

}  // namespace

CallWatch::CallWatch(AllowList allowed, Clock::duration silence, std::function<void()> after_look)
    : allowed_(std::move(allowed)),
      silence_(silence),
      after_look_(std::move(after_look)),
      thread_([this](const std::stop_token& stop) {
        std::mutex sleep;
        std::condition_variable_any wake;
        std::unique_lock lock(sleep);
        while (!wake.wait_for(lock, stop, kBetweenLooks, [&] { return stop.stop_requested(); })) {
          end_calls();
          ++looks_;
          if (after_look_) after_look_();
        }
      }) {}

bool CallWatch::lets_in(const CertificateInfo& certificate) const {
  return is_let_in(certificate, allowed_.read());
}

void CallWatch::end_calls() try {
  const auto allowed = allowed_.read();
  const std::scoped_lock lock(mutex_);
  for (Call* call : calls_) {
    const bool silent = call->waiting_since_ && Clock::now() - *call->waiting_since_ > silence_;
    const bool let_in = is_let_in(call->certificate_, allowed);
    if (silent || !let_in) call->context_.TryCancel();
    // Set after TryCancel(), so the site sees a broken call. Its next call gets the refusal.
    if (!let_in) call->turned_out_ = true;
  }
} catch (const Error&) {  // the list is being edited; new calls report the error
}

CallWatch::Call::Call(CallWatch& watch, grpc::ServerContext& context, CertificateInfo certificate)
    : watch_(watch), context_(context), certificate_(std::move(certificate)) {
  const std::scoped_lock lock(watch_.mutex_);
  const auto of_site = std::ranges::count_if(watch_.calls_, [&](const Call* call) {
    return call->certificate_.fingerprint == certificate_.fingerprint;
  });
  if (static_cast<std::size_t>(of_site) >= kMostCalls)
    throw TooManyCalls(
        fmt::format("{} calls of {} are under way; there may be {}", of_site, certificate_.name, kMostCalls));
  place_ = watch_.calls_.insert(watch_.calls_.end(), this);
  ++watch_.begun_;
}

CallWatch::Call::~Call() {
  const std::scoped_lock lock(watch_.mutex_);
  watch_.calls_.erase(place_);
}

void CallWatch::Call::set_waiting(bool waiting) {
  const std::scoped_lock lock(watch_.mutex_);
  waiting_since_ = waiting ? std::optional(Clock::now()) : std::nullopt;
}

}  // namespace conclave
