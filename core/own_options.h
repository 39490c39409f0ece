// Options of kinds that plug-ins bring (experts, routers, balancers, strategies): the program passes them on
// from a recipe without knowing them.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

class OwnOptions {
 public:
  OwnOptions() = default;
  /// `given`: "NAME=VALUE" each, the values of the recipe's `key` ("moe.options"). Throws Error if
  /// mistake_in() finds one.
  OwnOptions(std::string key, const std::vector<std::string>& given);

  /// What is wrong with `given`: no name, or a name twice; "" if nothing is.
  static std::string mistake_in(const std::vector<std::string>& given);

  // The value of an option, or `otherwise` if it is not given. Throws Error, which names the recipe's key, if
  // the value is of another type.
  double number(std::string_view name, double otherwise) const;
  bool flag(std::string_view name, bool otherwise) const;  ///< "true" or "false"
  std::string text(std::string_view name, std::string_view otherwise) const;

  /// Throws Error if an option was given that nobody asked this object or a copy of it for. Call it when all
  /// kinds that may ask are made.
  void expect_all_read() const;

 private:
  const std::string* find(std::string_view name) const;
  [[noreturn]] void refuse(std::string_view name, std::string_view wanted) const;

  std::string key_;
  std::map<std::string, std::string, std::less<>> given_;
  std::shared_ptr<std::set<std::string, std::less<>>> asked_ =
      std::make_shared<std::set<std::string, std::less<>>>();
};

}  // namespace conclave
