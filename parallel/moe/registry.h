// Kinds of a thing by name, for make_NAME() and for the registrations of others' libraries.
#pragma once

#include <fmt/ranges.h>

#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace conclave {

template <class Factory>
class Registry {
 public:
  /// `what` names the things in messages ("router").
  Registry(const char* what, std::map<std::string, Factory> kinds) : what_(what), kinds_(std::move(kinds)) {}

  void add(const std::string& name, Factory factory) { kinds_[name] = std::move(factory); }

  /// Throws Error, listing the kinds there are, on an unknown name.
  const Factory& find(const std::string& name) const {
    const auto found = kinds_.find(name);
    require(found != kinds_.end(), "no kind of {} is named '{}'; there are: {}", what_, name,
            fmt::join(names(), ", "));
    return found->second;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, factory] : kinds_) names.push_back(name);
    return names;
  }

 private:
  const char* what_;
  std::map<std::string, Factory> kinds_;
};

}  // namespace conclave
