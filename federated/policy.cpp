#include "federated/policy.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "core/spelling.h"

namespace conclave {
namespace {

// Whether the whole of `name` matches `pattern`, where "*" stands for any characters. The author of a pattern
// is not trusted, so the time is bounded: on a mismatch only the last star is extended, by one character.
bool matches(std::string_view pattern, std::string_view name) {
  std::size_t at = 0, place = 0, star = std::string_view::npos, taken = 0;
  while (place < name.size())
    if (at < pattern.size() && pattern[at] == '*') {
      star = at++;
      taken = place;
    } else if (at < pattern.size() && pattern[at] == name[place]) {
      ++at, ++place;
    } else if (star != std::string_view::npos) {
      at = star + 1;
      place = ++taken;
    } else {
      return false;
    }
  return pattern.find_first_not_of('*', at) == std::string_view::npos;
}

// A parsed rule: "name[0,4-7]" selects experts 0, 4, 5, 6, 7 of `name`. Experts are stored as spans, because
// the author of a rule is not trusted to bound the memory for single experts.
struct Selection {
  struct Span {
    Index first, last;
  };
  const SharingRule* rule;
  std::string_view name;
  bool by_expert = false;
  std::vector<Span> spans = {};  // in order; no two overlap or touch
  std::vector<bool> there = {};  // by number: experts that are selected and that the model has
  bool found = false;

  bool selects(Index expert) const {
    const auto after = std::ranges::upper_bound(spans, expert, {}, &Span::first);
    return after != spans.begin() && expert <= std::prev(after)->last;
  }
  void find(Index expert) {
    const auto place = static_cast<std::size_t>(expert);
    there.resize(std::max(there.size(), place + 1));
    there[place] = true;
  }
  std::optional<Index> missing() const {
    for (const Span& span : spans)
      for (Index expert = span.first; expert <= span.last; ++expert)
        if (const auto place = static_cast<std::size_t>(expert); place >= there.size() || !there[place])
          return expert;
    return std::nullopt;
  }
};

Index expert_number(std::string_view text, const std::string& pattern) {
  Index number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  require(error == std::errc() && end == text.data() + text.size() && number >= 0,
          "sharing '{}': '{}' is no expert's number; write them as in [0,4-7]", pattern, text);
  return number;
}

void merge(std::vector<Selection::Span>& spans) {
  std::ranges::sort(spans, {}, &Selection::Span::first);
  std::size_t merged = 0;
  for (const Selection::Span& span : spans)
    if (merged > 0 && span.first - 1 <= spans[merged - 1].last)
      spans[merged - 1].last = std::max(spans[merged - 1].last, span.last);
    else
      spans[merged++] = span;
  spans.resize(merged);
}

Selection read(const SharingRule& rule) {
  const std::string_view text = rule.pattern;
  const auto bracket = text.find('[');
  if (bracket == std::string_view::npos) return {&rule, text};
  require(text.back() == ']', "sharing '{}': experts are written at the end, as in [0,4-7]", rule.pattern);
  Selection selection{&rule, text.substr(0, bracket), true};
  std::string_view list = text.substr(bracket + 1, text.size() - bracket - 2);
  for (std::size_t comma = 0; comma != std::string_view::npos;) {
    comma = list.find(',');
    const std::string_view item = list.substr(0, comma);
    const auto dash = item.find('-');
    const Index first = expert_number(item.substr(0, dash), rule.pattern);
    const Index last = dash == item.npos ? first : expert_number(item.substr(dash + 1), rule.pattern);
    require(first <= last, "sharing '{}': {} is above {}", rule.pattern, first, last);
    selection.spans.push_back({first, last});
    if (comma != std::string_view::npos) list.remove_prefix(comma + 1);
  }
  merge(selection.spans);
  return selection;
}

// The rules that apply to one row, or to a parameter without rows: at most one that selects experts, and one
// that does not.
struct Decision {
  const SharingRule *by_expert = nullptr, *whole = nullptr;

  Sharing sharing() const {
    return by_expert ? by_expert->sharing : whole ? whole->sharing : Sharing::shared;
  }
  void apply(const Selection& selection, const std::string& parameter) {
    const SharingRule*& rule = selection.by_expert ? by_expert : whole;
    if (rule && rule->sharing != selection.rule->sharing)
      fail("sharing: '{}' is {} by '{}' and {} by '{}'; have one of them match less, or name experts",
           parameter, to_string(rule->sharing), rule->pattern, to_string(selection.rule->sharing),
           selection.rule->pattern);
    rule = selection.rule;
  }
};

void expect_found(const Selection& selection, std::span<const FlatParameter> parameters) {
  const std::string& pattern = selection.rule->pattern;
  if (!selection.found) {
    std::vector<std::string_view> names;
    for (const FlatParameter& parameter : parameters)
      if (!selection.by_expert || !parameter.layer.empty()) names.push_back(parameter.name);
    fail("sharing '{}' matches no parameter{}{}", pattern,
         selection.by_expert ? " with a row for each expert" : "",
         names.empty() ? "" : fmt::format("; the nearest is '{}'", nearest(selection.name, names)));
  }
  if (const auto expert = selection.missing())
    fail("sharing '{}': none of the parameters that it matches has an expert {}", pattern, *expert);
}

}  // namespace

Sharing parse_sharing(std::string_view text) {
  for (const Sharing sharing : {Sharing::shared, Sharing::by_tokens, Sharing::kept_private})
    if (text == to_string(sharing)) return sharing;
  fail("sharing is '{}'; there are shared, by_tokens, private", text);
}

std::string_view to_string(Sharing sharing) {
  switch (sharing) {
    case Sharing::shared:
      return "shared";
    case Sharing::by_tokens:
      return "by_tokens";
    case Sharing::kept_private:
      return "private";
  }
  return "";
}

SharingPolicy::SharingPolicy(std::span<const FlatParameter> parameters, std::span<const SharingRule> rules) {
  std::vector<Selection> selections;
  for (const SharingRule& rule : rules) selections.push_back(read(rule));
  for (const FlatParameter& parameter : parameters) {
    const bool of_experts = !parameter.layer.empty();
    const Index rows = of_experts ? parameter.shape[0] : 1;
    std::vector<Decision> decisions(static_cast<std::size_t>(rows));
    for (Selection& selection : selections) {
      if ((selection.by_expert && !of_experts && !parameter.mixed) ||
          !matches(selection.name, parameter.name))
        continue;
      require(!parameter.mixed || (!selection.by_expert && selection.rule->sharing != Sharing::by_tokens),
              "sharing '{}': '{}' is of a layer whose experts are of several kinds, and a checkpoint does "
              "not say which kind has which numbers; have a pattern match all of it or nothing, without "
              "experts in brackets and not by_tokens, or give the model experts of one kind (moe.expert)",
              selection.rule->pattern, parameter.name);
      require(of_experts || selection.rule->sharing != Sharing::by_tokens,
              "sharing '{}' by_tokens: '{}' has no rows of experts whose tokens could be counted",
              selection.rule->pattern, parameter.name);
      selection.found = true;
      for (Index row = 0; row < rows; ++row) {
        if (selection.by_expert && !selection.selects(row)) continue;
        if (selection.by_expert) selection.find(row);
        decisions[static_cast<std::size_t>(row)].apply(
            selection, of_experts ? fmt::format("{}[{}]", parameter.name, row) : parameter.name);
      }
    }
    const auto size = static_cast<std::size_t>(parameter.shape.numel() / std::max<Index>(rows, 1));
    for (Index row = 0; row < rows; ++row)
      add(size, decisions[static_cast<std::size_t>(row)].sharing(), {parameter.layer, row});
  }
  for (const Selection& selection : selections) expect_found(selection, parameters);
  require(exchanged_elements_ > 0, "sharing: all parameters are private, nothing would be shared");
}

void SharingPolicy::add(std::size_t size, Sharing sharing, const Expert& expert) {
  const std::size_t model = model_elements_;
  model_elements_ += size;
  if (sharing == Sharing::kept_private || size == 0) return;
  std::ptrdiff_t number = -1;
  if (sharing == Sharing::by_tokens) {
    const auto found = std::ranges::find(experts_, expert);
    number = found - experts_.begin();
    if (found == experts_.end()) experts_.push_back(expert);
  }
  Range* last = ranges_.empty() ? nullptr : &ranges_.back();
  if (last && last->model + last->size == model && last->expert == number)
    last->size += size;
  else
    ranges_.push_back({model, exchanged_elements_, size, number});
  exchanged_elements_ += size;
}

void SharingPolicy::gather(std::span<const float> model, std::span<float> exchanged) const {
  require(model.size() == model_elements_ && exchanged.size() == exchanged_elements_,
          "sharing: {} of {} elements, expected {} of {}", exchanged.size(), model.size(),
          exchanged_elements_, model_elements_);
  for (const Range& range : ranges_)
    std::ranges::copy(model.subspan(range.model, range.size), &exchanged[range.exchanged]);
}

void check_kept_private(std::span<const FlatParameter> parameters, const SharingPolicy& asked,
                        const SharingPolicy& own) {
  const auto exchanged = [](const SharingPolicy& policy, std::size_t element) {
    const auto after = std::ranges::upper_bound(policy.ranges(), element, {}, &SharingPolicy::Range::model);
    return after != policy.ranges().begin() && element < std::prev(after)->model + std::prev(after)->size;
  };
  std::size_t element = 0;
  for (const FlatParameter& parameter : parameters) {
    const bool of_experts = !parameter.layer.empty();
    const Index rows = of_experts ? parameter.shape[0] : 1;
    const auto size = static_cast<std::size_t>(parameter.shape.numel() / std::max<Index>(rows, 1));
    for (Index row = 0; row < rows && size > 0; ++row, element += size)
      require(!exchanged(asked, element) || exchanged(own, element),
              "the coordinator asks for '{}{}', which this site's sharing.private keeps here; have the "
              "federation's sharing.private name it, too, or take it out of the site's",
              parameter.name, of_experts ? fmt::format("[{}]", row) : "");
  }
}

}  // namespace conclave
