#include "recipes/evaluation/routing_counts.h"

#include <algorithm>

#include "parallel/moe/balancer.h"
#include "recipes/evaluation/expert_table.h"

namespace conclave {

RoutingCounts::RoutingCounts(std::size_t layers, std::size_t experts, std::size_t classes,
                             std::size_t most_experts)
    : layers_(layers),
      experts_(experts),
      classes_(classes),
      most_experts_(most_experts),
      counts_(size()),
      batch_load_(layers * experts) {}

std::size_t RoutingCounts::received(std::size_t expert, bool in_domain) const {
  return of_class(layers_ * experts_, 0) + 2 * expert + (in_domain ? 1 : 0);
}

std::size_t RoutingCounts::of_images(std::size_t expert) const {
  return received(layers_ * experts_, false) + expert;
}

std::size_t RoutingCounts::sent_to(std::size_t experts) const {
  return of_images(layers_ * experts_) + experts;
}

std::size_t RoutingCounts::tokens(bool in_domain) const {
  return sent_to(most_experts_ + 1) + (in_domain ? 1 : 0);
}

void RoutingCounts::add(const Batch& batch, std::span<const Tensor> chosen_experts, Communicator& world) {
  std::ranges::fill(batch_load_, 0);
  for (std::size_t l = 0; l < layers_; ++l) {
    const auto routed = chosen_experts[l].span<std::int32_t>();
    const auto width = static_cast<std::size_t>(chosen_experts[l].size(1));
    for (std::size_t s = 0; s < batch.labels.size(); ++s) {
      const auto first = static_cast<std::size_t>(batch.offsets[s]) * width;
      const auto last = static_cast<std::size_t>(batch.offsets[s + 1]) * width;
      const auto text = static_cast<std::size_t>(batch.text_offsets[s + 1] - batch.text_offsets[s]);
      const auto label = static_cast<std::size_t>(batch.labels[s]);
      const bool in_domain = batch.in_domain[s] != 0;
      if (l == 0) counts_[tokens(in_domain)] += static_cast<Index>((last - first) / most_experts_);
      for (std::size_t i = first; i < last; i += most_experts_) {
        const auto unused = std::ranges::count(routed.subspan(i, most_experts_), -1);
        ++counts_[sent_to(most_experts_ - static_cast<std::size_t>(unused))];
      }
      for (std::size_t i = first; i < last; ++i) {
        if (routed[i] < 0) continue;
        const std::size_t to = expert(l, static_cast<std::size_t>(routed[i]));
        ++counts_[of_class(to, label)];
        ++counts_[received(to, in_domain)];
        ++batch_load_[to];
        if (i < last - text * width) ++counts_[of_images(to)];
      }
    }
  }
  ++batches_;
  if (layers_ == 0) return;
  world.all_reduce(Tensor::borrow(batch_load_.data(), {std::ssize(batch_load_)}, DType::i64));
  for (std::size_t l = 0; l < layers_; ++l)
    utilization_sum_ += conclave::utilization(std::span(batch_load_).subspan(expert(l, 0), experts_));
}

void RoutingCounts::reduce(Communicator& world) {
  world.all_reduce(Tensor::borrow(counts_.data(), {std::ssize(counts_)}, DType::i64));
}

std::vector<std::vector<Index>> RoutingCounts::expert_classes() const {
  std::vector<std::vector<Index>> tables;
  for (std::size_t l = 0; l < layers_; ++l) {
    const auto table = std::span(counts_).subspan(of_class(expert(l, 0), 0), experts_ * classes_);
    tables.emplace_back(table.begin(), table.end());
  }
  return tables;
}

std::vector<Index> RoutingCounts::experts_per_token() const {
  const auto counts = std::span(counts_).subspan(sent_to(0), most_experts_ + 1);
  return {counts.begin(), counts.end()};
}

std::vector<DomainRouting> RoutingCounts::domain() const {
  std::vector<DomainRouting> domain;
  for (std::size_t l = 0; l < layers_ && counts_[tokens(true)] > 0; ++l) {
    DomainRouting& routing =
        domain.emplace_back(DomainRouting{counts_[tokens(true)], counts_[tokens(false)], {}, {}});
    for (std::size_t e = 0; e < experts_; ++e) {
      routing.other.push_back(counts_[received(expert(l, e), false)]);
      routing.domain.push_back(counts_[received(expert(l, e), true)]);
    }
  }
  return domain;
}

std::vector<std::vector<double>> RoutingCounts::image_share() const {
  std::vector<std::vector<double>> shares;
  Index images = 0, all = 0;
  for (std::size_t l = 0; l < layers_; ++l) {
    auto& layer = shares.emplace_back();
    for (std::size_t e = 0; e < experts_; ++e) {
      const std::size_t one = expert(l, e);
      const Index of_these = counts_[of_images(one)],
                  total = counts_[received(one, false)] + counts_[received(one, true)];
      images += of_these;
      all += total;
      layer.push_back(static_cast<double>(of_these) / static_cast<double>(std::max<Index>(total, 1)));
    }
  }
  return images > 0 && images < all ? shares : std::vector<std::vector<double>>();
}

double RoutingCounts::utilization() const {
  if (layers_ == 0) return 1;
  double mean = 0;
  for (const auto& table : expert_classes())
    mean +=
        conclave::utilization(ExpertTable(table, classes_).expert_totals()) / static_cast<double>(layers_);
  return mean;
}

double RoutingCounts::batch_utilization() const {
  return layers_ == 0 ? 1 : utilization_sum_ / static_cast<double>(batches_ * static_cast<Index>(layers_));
}

}  // namespace conclave
