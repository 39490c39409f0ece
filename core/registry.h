// Kinds of objects by name, for make_NAME() and for registrations by plug-ins. A factory may belong to a
// plug-in, so messages about its failures name the kind.
#pragma once

#include <fmt/ranges.h>

#include <exception>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace conclave {

template <class Factory>
class Registry {
 public:
  /// `what` names a thing in messages, `made` what a factory makes ("expert", "experts").
  Registry(const char* what, const char* made, std::map<std::string, Factory> kinds)
      : what_(what), made_(made) {
    for (auto& [name, factory] : kinds) kinds_[name] = {std::move(factory), {}};
  }

  struct Kind {
    Factory factory;
    std::string plugin;  ///< that registered it; "" for the program itself
  };

  /// A kind of the program itself replaces an earlier one of that name; a plug-in's kind throws Error
  /// instead.
  void add(const std::string& name, Factory factory, const std::string& plugin) {
    const auto found = kinds_.find(name);
    if (!plugin.empty() && found != kinds_.end())
      fail("there is a kind of {} named '{}' already, {}; give it another name", what_, name,
           found->second.plugin.empty() ? "of the program's own" : "of " + found->second.plugin);
    kinds_[name] = {std::move(factory), plugin};
  }

  /// Throws Error on an unknown name; the message lists the known kinds and their plug-ins.
  const Kind& find(const std::string& name) const {
    const auto found = kinds_.find(name);
    if (found != kinds_.end()) return found->second;
    std::vector<std::string> all;
    for (const auto& [kind, entry] : kinds_)
      all.push_back(entry.plugin.empty() ? kind : fmt::format("{} (of {})", kind, entry.plugin));
    fail("no kind of {} is named '{}'; there are: {}", what_, name, fmt::join(all, ", "));
  }

  /// "experts of kind 'lstm' (of libmedical.so)".
  std::string describe(const std::string& name) const {
    const std::string& plugin = find(name).plugin;
    return fmt::format("{} of kind '{}'{}", made_, name, plugin.empty() ? "" : " (of " + plugin + ")");
  }

  /// Calls the kind's factory with `options`. Throws Error on an unknown name, or if the factory throws or
  /// returns null.
  template <class... Options>
  auto make(const std::string& name, const Options&... options) const {
    const Factory& factory = find(name).factory;
    decltype(factory(options...)) made;
    try {
      made = factory(options...);
    } catch (const std::exception& error) {
      fail("{} cannot be made: {}", describe(name), error.what());
    } catch (...) {
      fail("{} cannot be made: its factory threw something that is no std::exception", describe(name));
    }
    require(made != nullptr, "{} cannot be made: the factory returned null", describe(name));
    return made;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, kind] : kinds_) names.push_back(name);
    return names;
  }

 private:
  const char *what_, *made_;
  std::map<std::string, Kind> kinds_;
};

}  // namespace conclave
