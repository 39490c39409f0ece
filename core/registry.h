// Kinds of a thing by name, for make_NAME() and for the registrations of others' libraries. A factory may be
// a plug-in's: what goes wrong in it is told with the kind's name.
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
    std::string plugin;  ///< that brought it; "" for the program's own
  };

  /// A later kind of the program's own replaces an earlier one; one of a plug-in's throws Error.
  void add(const std::string& name, Factory factory, const std::string& plugin) {
    const auto found = kinds_.find(name);
    if (!plugin.empty() && found != kinds_.end())
      fail("there is a kind of {} named '{}' already, {}; give it another name", what_, name,
           found->second.plugin.empty() ? "of the program's own" : "of " + found->second.plugin);
    kinds_[name] = {std::move(factory), plugin};
  }

  /// Throws Error, listing the kinds there are, and of which plug-in, on an unknown name.
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

  /// What the kind's factory makes of `options`; throws Error on an unknown name, and where it makes nothing.
  template <class... Options>
  auto make(const std::string& name, const Options&... options) const {
    const Factory& factory = find(name).factory;
    decltype(factory(options...)) made;
    try {
      made = factory(options...);
    } catch (const std::exception& error) {
      fail("{} cannot be made: {}", describe(name), error.what());
    } catch (...) {
      fail("{} cannot be made: its factory throws no std::exception", describe(name));
    }
    require(made != nullptr, "{} cannot be made: the factory made nothing", describe(name));
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
