#include "recipes/models/text_classifier.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

Tensor borrow(const std::vector<std::int32_t>& values) {
  // Tensors are written by kernels; the inputs of a model are not, so casting constness away is safe here.
  return Tensor::borrow(const_cast<std::int32_t*>(values.data()), {static_cast<Index>(values.size())},
                        DType::i32);
}

}  // namespace

TextInput text_input(const Batch& batch) {
  return {borrow(batch.tokens), borrow(batch.positions), borrow(batch.offsets), borrow(batch.labels),
          borrow(batch.in_domain)};
}

struct TextClassifier::Layer : Module {
  Layer(const std::string& layer_name, const ModelRecipe& model, const MoeRecipe& moe, bool with_experts,
        Index longest_sequence, const ProcessGrid& grid, Index dispatch_chunks)
      : name(layer_name),
        moe_name(layer_name + ".moe"),
        attention_norm(model.hidden),
        attention(model.hidden, model.heads),
        feed_forward_norm(model.hidden) {
    add_module("attention_norm", attention_norm);
    add_module("attention", attention);
    add_module("feed_forward_norm", feed_forward_norm);
    if (with_experts) {
      experts = std::make_unique<MoeLayer>(
          MoeOptions{.hidden = model.hidden,
                     .ffn = model.ffn,
                     .experts = moe.experts,
                     .top_k = moe.top_k,
                     .shared_experts = moe.shared_experts,
                     .router = moe.router,
                     .router_heads = moe.router_heads,
                     .router_noise = moe.router_noise,
                     .route_cache_mib = moe.route_cache_mib,
                     .longest_sequence = longest_sequence,
                     .gate = moe.gate,
                     .top_p = {moe.top_p, moe.k_min},
                     .expert = moe.expert,
                     .balancer = moe.balancer,
                     .balance_inference = moe.balance_inference,
                     .balancing = {moe.aux_coefficient, moe.bias_rate, moe.grad_norm_rate,
                                   moe.grad_norm_rounds, moe.grad_norm_alpha, moe.grad_norm_moves},
                     .router_losses = {moe.z_coefficient, moe.entropy_coefficient,
                                       moe.domain_expert < 0 ? 0 : moe.domain_prior, moe.domain_expert},
                     .capacity_factor = moe.capacity_factor,
                     .dispatch_chunks = dispatch_chunks},
          grid);
      add_module("moe", *experts);
    } else {
      feed_forward = std::make_unique<FeedForward>(model.hidden, model.ffn);
      add_module("feed_forward", *feed_forward);
    }
  }

  std::string name, moe_name;
  LayerNorm attention_norm;
  MultiHeadAttention attention;
  LayerNorm feed_forward_norm;
  std::unique_ptr<MoeLayer> experts;  // one of the two
  std::unique_ptr<FeedForward> feed_forward;
};

TextClassifier::~TextClassifier() = default;

TextClassifier::TextClassifier(const ModelRecipe& model, const MoeRecipe& moe, const Sizes& sizes,
                               const ProcessGrid& grid, Index dispatch_chunks)
    : options_(model),
      sizes_(sizes),
      token_embedding_(sizes.vocabulary, model.hidden),
      position_embedding_(sizes.max_length, model.hidden),
      final_norm_(model.hidden),
      head_(2 * model.hidden, sizes.classes),
      guess_bias_(add_parameter("masked_tokens.bias", {sizes.vocabulary}, Initializer::constant(0), false)) {
  add_module("token_embedding", token_embedding_);
  add_module("position_embedding", position_embedding_);
  for (Index i = 0; i < model.layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.push_back(std::make_unique<Layer>(name, model, moe, (i + 1) % moe.every == 0, sizes.max_length,
                                              grid, dispatch_chunks));
    add_module(name, *layers_.back());
  }
  add_module("final_norm", final_norm_);
  add_module("head", head_);
  if (model.bigrams > 0) {
    wide_ = std::make_unique<WideClassifier>(sizes.vocabulary, model.bigrams, sizes.classes);
    add_module("wide", *wide_);
  }
}

// The tokens as the model sees them, and which places were hidden.
struct TextClassifier::HiddenTokens {
  Tensor seen;      // [tokens] i32
  Tensor places;    // [hidden tokens] i32
  Tensor original;  // [hidden tokens] i32
};

TextClassifier::HiddenTokens TextClassifier::hide_tokens(Tape& tape, ForwardContext& context,
                                                         const Tensor& tokens) const {
  const RandomStream stream = context.next_stream();
  if (!context.training || options_.token_dropout <= 0) return {tokens, {}, {}};
  const double expected = options_.token_dropout * static_cast<double>(tokens.numel());
  // Memory is planned for six standard deviations more than expected: more is not seen in the life of a
  // cluster.
  const Index most =
      std::min(tokens.numel(), static_cast<Index>(std::ceil(expected + 6 * std::sqrt(expected))) + 16);
  Arena& arena = tape.arena();
  HiddenTokens result{arena.empty_on_host(tokens.shape(), DType::i32),
                      arena.empty_on_host({most}, DType::i32), arena.empty_on_host({most}, DType::i32)};
  const auto from = tokens.span<std::int32_t>(), to = result.seen.span<std::int32_t>();
  auto *places = result.places.data<std::int32_t>(), *original = result.original.data<std::int32_t>();
  Index hidden = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto global = static_cast<std::uint64_t>(context.first_token) + i;
    const bool hide =
        stream.uniform(global) < options_.token_dropout ||
        (tape.planning() && hidden < most && static_cast<Index>(from.size() - i) <= most - hidden);
    to[i] = hide ? sizes_.unknown_token : from[i];
    if (!hide || hidden == most) continue;
    places[hidden] = static_cast<std::int32_t>(i);
    original[hidden++] = from[i];
  }
  result.places = result.places.rows(0, hidden);
  result.original = result.original.rows(0, hidden);
  return result;
}

TextClassifier::Output TextClassifier::forward(Tape& tape, ForwardContext& context, const TextInput& input,
                                               bool guess) {
  tape.enter("embedding");
  const HiddenTokens tokens = hide_tokens(tape, context, input.tokens);
  const Tensor offsets = tape.on_device(input.offsets);
  Tensor x = functions::add(tape, token_embedding_(tape, tape.on_device(tokens.seen)),
                            position_embedding_(tape, tape.on_device(input.positions)));
  x = apply_dropout(tape, context, x, Tensor(), options_.embedding_dropout, context.first_token);
  for (const auto& layer : layers_) {
    tape.enter(layer->name.c_str());
    const Tensor attended = layer->attention(tape, layer->attention_norm(tape, x), offsets);
    x = apply_dropout(tape, context, attended, x, options_.dropout, context.first_token);
    const Tensor normal = layer->feed_forward_norm(tape, x);
    if (layer->experts) tape.enter(layer->moe_name.c_str());
    const Tensor fed = layer->experts ? (*layer->experts)(tape, context, normal, input.offsets)
                                      : (*layer->feed_forward)(tape, normal);
    x = apply_dropout(tape, context, fed, x, options_.dropout, context.first_token);
  }
  tape.enter("head");
  x = final_norm_(tape, x);
  Tensor pooled = functions::concatenate(tape, functions::segment_mean(tape, x, offsets),
                                         functions::segment_max(tape, x, offsets));
  pooled = apply_dropout(tape, context, pooled, Tensor(), options_.dropout, context.first_sequence);
  Output output{head_(tape, pooled), {}, tokens.original, {}};
  if (guess && tokens.places.defined()) {
    tape.enter("masked_tokens");
    const Tensor hidden =
        functions::embedding(tape, tape.on_device(tokens.places), x);  // rows of x by their number
    output.masked_logits = functions::linear(tape, hidden, token_embedding_.table(), guess_bias_.value);
  }
  if (wide_) {
    tape.enter("wide");
    output.wide_scores = (*wide_)(tape, input.tokens, input.offsets);
    if (!context.training)
      output.logits = functions::add(tape, output.logits,
                                     functions::scale(tape, output.wide_scores, options_.bigram_weight));
  }
  return output;
}

double TextClassifier::flops(Extent& extent) const {
  double sum = 0;
  for (const auto& layer : layers_) sum += layer->flops(extent);
  extent = {};
  return sum + head_.flops(extent);
}

std::vector<std::pair<std::string, MoeLayer*>> TextClassifier::moe_layers() {
  std::vector<std::pair<std::string, MoeLayer*>> found;
  for (const auto& layer : layers_)
    if (layer->experts) found.emplace_back(layer->moe_name, layer->experts.get());
  return found;
}

}  // namespace conclave
