#include "recipes/models/classifier.h"

#include <algorithm>
#include <cmath>

namespace conclave {
namespace {

// Tensors are written by kernels; the inputs of a model are not, so casting constness away is safe here.
template <class T>
Tensor borrow(const std::vector<T>& values, const Shape& shape, DType dtype) {
  return Tensor::borrow(const_cast<T*>(values.data()), shape, dtype);
}
Tensor borrow(const std::vector<std::int32_t>& values) {
  return borrow(values, {static_cast<Index>(values.size())}, DType::i32);
}

}  // namespace

ModelInput model_input(const Batch& batch) {
  const Index images = batch.local_images();
  return {.tokens = borrow(batch.tokens),
          .positions = borrow(batch.positions),
          .text_offsets = borrow(batch.text_offsets),
          .offsets = borrow(batch.offsets),
          .labels = borrow(batch.labels),
          .in_domain = borrow(batch.in_domain),
          .images = borrow(batch.images,
                           {images, static_cast<Index>(batch.images.size()) / std::max<Index>(images, 1)},
                           DType::u8),
          .image_sequences = borrow(batch.image_sequences)};
}

Classifier::Texts::Texts(Index vocabulary, Index max_length, Index hidden)
    : tokens(vocabulary, hidden), positions(max_length, hidden) {
  add_module("token_embedding", tokens);
  add_module("position_embedding", positions);
}

Classifier::Images::Images(const ImageRecipe& recipe, const ImageShape& image, Index hidden,
                           Communicator& world)
    : world(world),
      shape(image),
      encoder({.stem_channels = recipe.stem,
               .blocks = recipe.blocks,
               .norm = recipe.norm,
               .depthwise = recipe.depthwise},
              image.channels, hidden) {
  add_module("", encoder);
  Extent extent{image.height, image.width};
  encoder.flops(extent);  // which becomes that of what it leaves
  grid = extent.rows();
  if (recipe.tokens == "mean") return;
  rows = grid;
  add_module("position_embedding", positions.emplace(grid, hidden));
}

struct Classifier::Layer : Module {
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

Classifier::~Classifier() = default;

Classifier::Classifier(const Recipe& recipe, const Sizes& sizes, const ProcessGrid& grid)
    : options_(recipe.model),
      sizes_(sizes),
      final_norm_(recipe.model.hidden),
      head_(2 * recipe.model.hidden, sizes.classes) {
  const ModelRecipe& model = recipe.model;
  if (sizes.vocabulary > 0) {
    guess_bias_ = &add_parameter("masked_tokens.bias", {sizes.vocabulary}, Initializer::constant(0), false);
    texts_ = std::make_unique<Texts>(sizes.vocabulary, sizes.max_length, model.hidden);
    add_module("", *texts_);
  }
  if (sizes.image.size() > 0) {
    images_ = std::make_unique<Images>(recipe.image, sizes.image, model.hidden, grid.world());
    add_module("image", *images_);
  }
  for (Index i = 0; i < model.layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.push_back(std::make_unique<Layer>(name, model, recipe.moe, (i + 1) % recipe.moe.every == 0,
                                              std::max(sizes.max_length, image_tokens()), grid,
                                              recipe.parallel.dispatch_chunks));
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
struct Classifier::HiddenTokens {
  Tensor seen;      // [tokens] i32
  Tensor places;    // [hidden tokens] i32, by their rows
  Tensor original;  // [hidden tokens] i32
};

Classifier::HiddenTokens Classifier::hide_tokens(Tape& tape, ForwardContext& context,
                                                 const ModelInput& input) const {
  const RandomStream stream = context.next_stream();
  const Tensor& tokens = input.tokens;
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
  const auto texts = input.text_offsets.span<std::int32_t>(), rows = input.offsets.span<std::int32_t>();
  Index hidden = 0;
  std::size_t sequence = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    while (static_cast<std::size_t>(texts[sequence + 1]) <= i) ++sequence;
    const auto row = static_cast<std::size_t>(rows[sequence] - texts[sequence]) + i;
    const auto global = static_cast<std::uint64_t>(context.first_token) + row;
    const bool hide =
        stream.uniform(global) < options_.token_dropout ||
        (tape.planning() && hidden < most && static_cast<Index>(from.size() - i) <= most - hidden);
    to[i] = hide ? sizes_.unknown_token : from[i];
    if (!hide || hidden == most) continue;
    places[hidden] = static_cast<std::int32_t>(row);
    original[hidden++] = from[i];
  }
  result.places = result.places.rows(0, hidden);
  result.original = result.original.rows(0, hidden);
  return result;
}

Tensor Classifier::merge(Tape& tape, const Tensor& texts, const Tensor& images, Index image_rows,
                         const ModelInput& input) {
  const auto text_offsets = input.text_offsets.span<std::int32_t>(),
             with_image = input.image_sequences.span<std::int32_t>();
  const Tensor slots = tape.arena().empty_on_host({texts.size(0) + images.size(0), 1}, DType::i32);
  auto* slot = slots.data<std::int32_t>();
  std::size_t image = 0;
  for (std::size_t s = 0; s + 1 < text_offsets.size(); ++s) {
    for (std::int32_t token = text_offsets[s]; token < text_offsets[s + 1]; ++token) *slot++ = token;
    for (; image < with_image.size() && static_cast<std::size_t>(with_image[image]) == s; ++image)
      for (Index row = 0; row < image_rows; ++row)
        *slot++ = static_cast<std::int32_t>(texts.size(0) + static_cast<Index>(image) * image_rows + row);
  }
  return functions::merge_rows(tape, texts, images, tape.on_device(slots));
}

Tensor Classifier::Images::operator()(Tape& tape, ForwardContext& context, const Tensor& pixels) {
  const Index images = pixels.size(0);
  context.add_up = [](void* all, const Tensor& totals) {
    static_cast<Communicator*>(all)->all_reduce(totals);
  };
  context.add_up_context = &world;
  const Tensor encoded =
      encoder(tape, context, pixels.reshape({images, shape.height, shape.width, shape.channels}));
  const Index hidden = encoded.size(3);
  Tensor x = functions::reshape(encoded, {images * grid, hidden});
  if (!positions) {
    const Tensor offsets = tape.arena().empty_on_host({images + 1}, DType::i32);
    for (Index i = 0; i <= images; ++i) offsets.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * grid);
    return functions::segment_mean(tape, x, tape.on_device(offsets));
  }
  const Tensor places = tape.arena().empty_on_host({images * grid}, DType::i32);
  for (Index i = 0; i < images * grid; ++i)
    places.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % grid);
  return functions::add(tape, x, (*positions)(tape, tape.on_device(places)));
}

Classifier::Output Classifier::forward(Tape& tape, ForwardContext& context, const ModelInput& input,
                                       bool guess) {
  tape.enter("embedding");
  HiddenTokens tokens;
  Tensor x;
  if (texts_) {
    tokens = hide_tokens(tape, context, input);
    x = functions::add(tape, texts_->tokens(tape, tape.on_device(tokens.seen)),
                       texts_->positions(tape, tape.on_device(input.positions)));
  }
  if (images_) {
    tape.enter("image");
    const Tensor images = (*images_)(tape, context, input.images);
    x = x.defined() ? merge(tape, x, images, images_->rows, input) : images;
  }
  const Tensor offsets = tape.on_device(input.offsets);
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
    output.masked_logits = functions::linear(tape, hidden, texts_->tokens.table(), guess_bias_->value);
  }
  if (wide_) {
    tape.enter("wide");
    output.wide_scores = (*wide_)(tape, input.tokens, input.text_offsets);
    if (!context.training)
      output.logits = functions::add(tape, output.logits,
                                     functions::scale(tape, output.wide_scores, options_.bigram_weight));
  }
  return output;
}

double Classifier::flops(Extent& extent) const {
  double sum = 0;
  for (const auto& layer : layers_) sum += layer->flops(extent);
  extent = {};
  return sum + head_.flops(extent);
}

std::vector<std::pair<std::string, MoeLayer*>> Classifier::moe_layers() {
  std::vector<std::pair<std::string, MoeLayer*>> found;
  for (const auto& layer : layers_)
    if (layer->experts) found.emplace_back(layer->moe_name, layer->experts.get());
  return found;
}

}  // namespace conclave
