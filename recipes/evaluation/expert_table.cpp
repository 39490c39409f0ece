#include "recipes/evaluation/expert_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/error.h"
#include "core/text_line.h"

namespace conclave {
namespace {

constexpr std::size_t kLongestName = 40;  // code points; labels in a table may have any length

double entropy(std::span<const Index> counts, Index total) {
  double bits = 0;
  for (const Index count : counts) {
    if (count == 0) continue;
    const double p = static_cast<double>(count) / static_cast<double>(total);
    bits -= p * std::log2(p);
  }
  return bits;
}

}  // namespace

ExpertTable::ExpertTable(std::span<const Index> counts, std::size_t classes)
    : counts_(counts), expert_total_(classes ? counts.size() / classes : 0), class_total_(classes) {
  require(expert_total_.size() * classes == counts.size(),
          "expert table: {} counts do not fill rows of {} classes", counts.size(), classes);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    expert_total_[i / classes] += counts[i];
    class_total_[i % classes] += counts[i];
    total_ += counts[i];
  }
}

double ExpertTable::share(Index count) const {
  return total_ > 0 ? static_cast<double>(count) / static_cast<double>(total_) : 0;
}

double ExpertTable::expected(std::size_t expert, std::size_t c) const {
  return expert_share(expert) * static_cast<double>(class_total_[c]);
}

double ExpertTable::lift(std::size_t expert, std::size_t c) const {
  const double by_chance = expected(expert, c);
  return by_chance > 0 ? static_cast<double>(count(expert, c)) / by_chance : 0;
}

ExpertInformation ExpertTable::information() const {
  ExpertInformation bits{.experts = entropy(expert_total_, total_), .classes = entropy(class_total_, total_)};
  for (std::size_t e = 0; e < experts(); ++e)
    for (std::size_t c = 0; c < classes(); ++c)
      if (count(e, c) > 0) bits.mutual += share(count(e, c)) * std::log2(lift(e, c));
  bits.mutual = std::max(bits.mutual, 0.0);  // rounding may make it negative
  return bits;
}

std::string describe_expert(const ExpertTable& table, std::size_t expert,
                            std::span<const std::string> class_names) {
  std::vector<std::pair<double, std::size_t>> above;
  for (std::size_t c = 0; c < table.classes(); ++c)
    if (table.expected(expert, c) >= 1 && table.lift(expert, c) > 1)
      above.emplace_back(table.lift(expert, c), c);
  std::ranges::sort(above, std::greater{});
  if (above.size() > 4) above.resize(4);
  std::string serves;
  for (const auto& [lift, c] : above)
    serves +=
        fmt::format("{}{} x{:.2f}", serves.empty() ? "" : ", ", one_line(class_names[c], kLongestName), lift);
  const double share = table.expert_share(expert);
  return fmt::format("expert {:>2}  load {:.3f}  ({:.1f}% of tokens)  serves above average: {}", expert,
                     share * static_cast<double>(table.experts()), 100 * share,
                     serves.empty() ? "none" : serves);
}

std::string describe_image_share(std::span<const double> experts) {
  std::string text = "rows of images among each expert's:";
  for (const double share : experts) text += fmt::format(" {:.0f}%", 100 * share);
  return text;
}

std::vector<std::size_t> classes_by_expert(const ExpertTable& table, std::size_t most) {
  std::vector<std::size_t> order;
  for (std::size_t c = 0; c < table.classes(); ++c)
    if (table.class_totals()[c] > 0) order.push_back(c);
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t c) { return table.class_totals()[c]; });
  if (order.size() > most) order.resize(most);
  std::vector<std::size_t> home(table.classes());  // the expert that has most of the class
  for (const std::size_t c : order)
    for (std::size_t e = 1; e < table.experts(); ++e)
      if (table.count(e, c) > table.count(home[c], c)) home[c] = e;
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    if (home[a] != home[b]) return home[a] < home[b];
    const double lift_a = table.lift(home[a], a), lift_b = table.lift(home[b], b);
    return lift_a != lift_b ? lift_a > lift_b : a < b;
  });
  return order;
}

}  // namespace conclave
