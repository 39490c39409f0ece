// Every mistake a user can make ends in a conclave::Error. Its message says what was attempted, with which
// values, what was expected, and what to do next. Broken internal invariants are asserts, not Errors.
#pragma once

#ifdef __NVCC__
#define FMT_USE_CONSTEXPR 1  // fmt 9 assumes that nvcc has no constexpr
#endif
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace conclave {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

/// Throws an Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Error with a formatted message unless `condition` holds; costs one branch when it does.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace conclave
