#include "recipes/training/site_terms.h"

#include "core/kernels/activation.h"
#include "recipes/models/model_state.h"

namespace conclave {

// Puts zeros into each of `lists`: one vector for each segment of the parameters, as long as the segment.
std::unique_ptr<Arena> SiteTerms::copies(const std::string& name,
                                         std::initializer_list<std::vector<Tensor>*> lists) const {
  auto memory = std::make_unique<Arena>(name, 0, parameters_.device());
  std::size_t bytes = 0;
  for (const auto& segment : parameters_.segments())
    bytes += lists.size() * Arena::room_for(segment.values.shape(), segment.values.dtype());
  memory->seal_for(bytes);
  for (std::vector<Tensor>* list : lists)
    for (const auto& segment : parameters_.segments())
      list->push_back(memory->zeros(segment.values.shape(), segment.values.dtype()));
  return memory;
}

SiteTerms::ControlEntries SiteTerms::control_entries() {
  if (!control_memory_) control_memory_ = copies("control", {&correction_, &mean_gradient_});
  return {parameter_entries("control", parameters_, correction_),
          parameter_entries("control", parameters_, mean_gradient_)};
}

void SiteTerms::begin(const SiteRules& rules, std::int64_t steps) {
  require(!rules.control_variate || control_memory_,
          "the rules have a control variate, but control_entries() was not called");
  rules_ = rules;
  steps_ = steps;
  for (const Tensor& mean : mean_gradient_) mean.zero();
  if (!(rules.proximal > 0)) return;
  if (!anchor_memory_) anchor_memory_ = copies("proximal", {&anchor_});
  for (std::size_t i = 0; i < anchor_.size(); ++i) anchor_[i].copy_from(parameters_.segments()[i].values);
}

void SiteTerms::add_to_gradients() {
  for (std::size_t i = 0; rules_.proximal > 0 && i < anchor_.size(); ++i) {
    const auto& segment = parameters_.segments()[i];
    kernels::scale(segment.values, rules_.proximal, segment.gradients, Write::accumulate);
    kernels::scale(anchor_[i], -rules_.proximal, segment.gradients, Write::accumulate);
  }
  for (std::size_t i = 0; rules_.control_variate && i < correction_.size(); ++i) {
    const Tensor& gradients = parameters_.segments()[i].gradients;
    kernels::scale(correction_[i], 1, gradients, Write::accumulate);
    kernels::scale(gradients, 1 / static_cast<double>(steps_), mean_gradient_[i], Write::accumulate);
  }
}

}  // namespace conclave
