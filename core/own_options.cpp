#include "core/own_options.h"

#include <fmt/ranges.h>

#include <charconv>

#include "core/error.h"
#include "core/text.h"

namespace conclave {
namespace {

std::string_view name_in(std::string_view option) { return trimmed(option.substr(0, option.find('='))); }

}  // namespace

std::string OwnOptions::mistake_in(const std::vector<std::string>& given) {
  std::set<std::string_view> names;
  for (const std::string& option : given) {
    if (option.find('=') == std::string::npos || name_in(option).empty())
      return fmt::format("\"{}\" is not NAME=VALUE", option);
    if (!names.insert(name_in(option)).second) return fmt::format("{} is given twice", name_in(option));
  }
  return "";
}

OwnOptions::OwnOptions(std::string key, const std::vector<std::string>& given) : key_(std::move(key)) {
  const std::string mistake = mistake_in(given);
  require(mistake.empty(), "{}: {}", key_, mistake);
  for (const std::string& option : given)
    given_.emplace(name_in(option), trimmed(std::string_view(option).substr(option.find('=') + 1)));
}

const std::string* OwnOptions::find(std::string_view name) const {
  asked_->emplace(name);
  const auto found = given_.find(name);
  return found == given_.end() ? nullptr : &found->second;
}

void OwnOptions::refuse(std::string_view name, std::string_view wanted) const {
  fail("{}: {} wants {}, not \"{}\"", key_, name, wanted, given_.find(name)->second);
}

double OwnOptions::number(std::string_view name, double otherwise) const {
  const std::string* const value = find(name);
  if (!value) return otherwise;
  double result = 0;
  const char* const end = value->data() + value->size();
  const auto [stopped, error] = std::from_chars(value->data(), end, result);
  if (error != std::errc{} || stopped != end) refuse(name, "a number");
  return result;
}

bool OwnOptions::flag(std::string_view name, bool otherwise) const {
  const std::string* const value = find(name);
  if (!value) return otherwise;
  if (*value != "true" && *value != "false") refuse(name, "true or false");
  return *value == "true";
}

std::string OwnOptions::text(std::string_view name, std::string_view otherwise) const {
  const std::string* const value = find(name);
  return value ? *value : std::string(otherwise);
}

void OwnOptions::expect_all_read() const {
  for (const auto& [name, value] : given_)
    require(asked_->contains(name), "{}: nothing reads {}{}", key_, name,
            asked_->empty() ? std::string("; only kinds of plug-ins read such options")
                            : fmt::format("; there are {}", fmt::join(*asked_, ", ")));
}

}  // namespace conclave
