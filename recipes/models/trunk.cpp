#include "recipes/models/trunk.h"

#include <algorithm>

#include "core/kernels/vector_math.h"

namespace conclave {
namespace {

bool separates(const Recipe& recipe) {
  return recipe.moe.modality_experts == "separate" && recipe.data.has_images() && recipe.has_texts();
}

}  // namespace

void add_costs(const std::string& prefix, const Module& module, std::vector<Extent> sequences,
               std::vector<Cost>& costs, Index uses) {
  for (const auto& [name, child] : module.children()) {
    Cost& cost = costs.emplace_back(Cost{prefix + name, child->parameter_count(), 0});
    for (Extent& extent : sequences) cost.flops += static_cast<double>(uses) * child->flops(extent);
  }
}

Trunk::Texts::Texts(const ModelSizes& sizes, const ModelRecipe& model)
    : tokens(sizes.vocabulary, model.embedding > 0 ? model.embedding : model.hidden),
      positions(sizes.max_length, model.embedding > 0 ? model.embedding : model.hidden) {
  add_module("token_embedding", tokens);
  add_module("position_embedding", positions);
  if (model.embedding > 0)
    add_module("embedding_projection", projection.emplace(model.embedding, model.hidden));
}

Trunk::Images::Images(const ImageRecipe& recipe, const ImageShape& image, Index hidden, Communicator& world)
    : world(world),
      shape(image),
      encoder({.stem_channels = recipe.stem,
               .scattering = recipe.scattering,
               .blocks = recipe.blocks,
               .norm = recipe.norm,
               .depthwise = recipe.depthwise,
               .flatten =
                   recipe.tokens == "flat" ? std::optional(Extent{image.height, image.width}) : std::nullopt},
              image.channels, hidden) {
  add_module("", encoder);
  Extent extent{image.height, image.width};
  encoder.flops(extent);  // sets `extent` to the size of the encoder's output
  grid = extent.rows();
  if (recipe.tokens != "grid") return;
  rows = grid;
  add_module("position_embedding", positions.emplace(grid, hidden));
}

struct Trunk::Layer : Module {
  Layer(const std::string& layer_name, const ModelRecipe& model, const MoeRecipe& moe, const OwnOptions& own,
        bool with_experts, Index longest_sequence, const ProcessGrid& grid, Index dispatch_chunks, bool apart,
        Quantization* quantization)
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
                     .balancing = {.aux_coefficient = moe.aux_coefficient,
                                   .bias_rate = moe.bias_rate,
                                   .grad_norm_rate = moe.grad_norm_rate,
                                   .grad_norm_rounds = moe.grad_norm_rounds,
                                   .grad_norm_alpha = moe.grad_norm_alpha,
                                   .grad_norm_moves = moe.grad_norm_moves},
                     .own = own,
                     .router_losses = {.z = moe.z_coefficient,
                                       .entropy = moe.entropy_coefficient,
                                       .domain = moe.domain_expert < 0 ? 0 : moe.domain_prior,
                                       .domain_expert = moe.domain_expert},
                     .capacity_factor = moe.capacity_factor,
                     .dispatch_chunks = dispatch_chunks,
                     .collects_example_gradients = apart,
                     .quantization = quantization},
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
  std::unique_ptr<MoeLayer> experts;  // either this or feed_forward
  std::unique_ptr<FeedForward> feed_forward;
};

Trunk::~Trunk() = default;

Trunk::Trunk(const Recipe& recipe, const ModelSizes& sizes, bool encodes_images, Index drawn_rows,
             const ProcessGrid& grid, Quantization* quantization)
    : depth_(recipe.model.layers),
      hidden_(recipe.model.hidden),
      separate_experts_(separates(recipe) ? recipe.moe.experts : 0),
      dropout_(recipe.model.dropout),
      embedding_dropout_(recipe.model.embedding_dropout),
      final_norm_(recipe.model.hidden) {
  const ModelRecipe& model = recipe.model;
  if (sizes.vocabulary > 0) {
    texts_ = std::make_unique<Texts>(sizes, model);
    add_module("", *texts_);
  }
  if (encodes_images) {
    images_ = std::make_unique<Images>(recipe.image, sizes.image, model.hidden, grid.world());
    add_module("image", *images_);
  }
  const Index longest = (texts_ ? sizes.max_length : 0) + std::max(image_tokens(), drawn_rows);
  const OwnOptions own("moe.options", recipe.moe.options);
  for (Index i = 0; i < (model.share_layers ? recipe.moe.every : model.layers); ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.push_back(std::make_unique<Layer>(name, model, recipe.moe, own, (i + 1) % recipe.moe.every == 0,
                                              longest, grid, recipe.parallel.dispatch_chunks,
                                              recipe.privacy.is_on(), quantization));
    add_module(name, *layers_.back());
  }
  own.expect_all_read();
  add_module("final_norm", final_norm_);
}

Tensor Trunk::embed(Tape& tape, const Tensor& tokens, const Tensor& positions) {
  tape.enter("embedding");
  const Tensor x = functions::add(tape, texts_->tokens(tape, tape.on_device(tokens)),
                                  texts_->positions(tape, tape.on_device(positions)));
  return texts_->projection ? (*texts_->projection)(tape, x) : x;
}

Tensor Trunk::encode(Tape& tape, ForwardContext& context, const Tensor& pixels) {
  tape.enter("image");
  const Index images = pixels.size(0), grid = images_->grid;
  const ImageShape& shape = images_->shape;
  context.add_up = [](void* all, const Tensor& totals) {
    static_cast<Communicator*>(all)->all_reduce(totals);
  };
  context.add_up_context = &images_->world;
  const Tensor encoded =
      images_->encoder(tape, context, pixels.reshape({images, shape.height, shape.width, shape.channels}));
  const Tensor x = functions::reshape(encoded, {images * grid, encoded.size(3)});
  if (!images_->positions)
    return functions::segment_mean(tape, x, tape.on_device(functions::even_offsets(tape, images, grid)));
  const Tensor places = tape.arena().empty_on_host({images * grid}, DType::i32);
  for (Index i = 0; i < images * grid; ++i)
    places.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % grid);
  return functions::add(tape, x, (*images_->positions)(tape, tape.on_device(places)));
}

Tensor Trunk::merge(Tape& tape, const Tensor& images, const Tensor& texts, Index image_rows,
                    const ModelInput& input) {
  if (!images.defined()) return texts;
  if (!texts.defined()) return images;
  const auto text_offsets = input.text_offsets.span<std::int32_t>(),
             with_image = input.image_sequences.span<std::int32_t>();
  const Tensor slots = tape.arena().empty_on_host({images.size(0) + texts.size(0), 1}, DType::i32);
  auto* slot = slots.data<std::int32_t>();
  std::size_t image = 0;
  for (std::size_t s = 0; s + 1 < text_offsets.size(); ++s) {
    for (; image < with_image.size() && static_cast<std::size_t>(with_image[image]) == s; ++image)
      for (Index row = 0; row < image_rows; ++row)
        *slot++ = static_cast<std::int32_t>(static_cast<Index>(image) * image_rows + row);
    for (std::int32_t token = text_offsets[s]; token < text_offsets[s + 1]; ++token)
      *slot++ = static_cast<std::int32_t>(images.size(0)) + token;
  }
  return functions::merge_rows(tape, images, texts, tape.on_device(slots));
}

void Trunk::separate_experts(Tape& tape, ForwardContext& context, const ModelInput& input,
                             DType dtype) const {
  if (separate_experts_ == 0) return;
  const auto offsets = input.offsets.span<std::int32_t>(), texts = input.text_offsets.span<std::int32_t>();
  const Tensor scores = tape.arena().empty_on_host({offsets.back(), separate_experts_}, dtype);
  for_floating(dtype, "separate_experts", [&]<class T>(T) {
    const Index half = separate_experts_ / 2;
    T* score = scores.data<T>();
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
      for (std::int32_t row = offsets[s]; row < offsets[s + 1]; ++row, score += separate_experts_) {
        const bool image = row < offsets[s + 1] - (texts[s + 1] - texts[s]);
        std::fill_n(score, half, image ? T(0) : T(kernels::kMaskingScore));
        std::fill_n(score + half, half, image ? T(kernels::kMaskingScore) : T(0));
      }
  });
  context.router_scores = tape.on_device(scores);
}

template <class Attend>
Tensor Trunk::through_layers(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets,
                             Attend attend) {
  x = apply_dropout(tape, context, x, Tensor(), embedding_dropout_, context.first_token);
  const auto different = static_cast<Index>(layers_.size());
  for (Index i = 0; i < depth_; ++i) {
    const auto& layer = layers_[static_cast<std::size_t>(i % different)];
    tape.enter(layer->name.c_str());
    const Tensor attended = attend(layer->attention, layer->attention_norm(tape, x), i);
    x = apply_dropout(tape, context, attended, x, dropout_, context.first_token);
    const Tensor normal = layer->feed_forward_norm(tape, x);
    if (layer->experts) tape.enter(layer->moe_name.c_str());
    const Tensor fed = layer->experts ? (*layer->experts)(tape, context, normal, offsets, i / different)
                                      : (*layer->feed_forward)(tape, normal);
    x = apply_dropout(tape, context, fed, x, dropout_, context.first_token);
  }
  return final_norm_(tape, x);
}

Tensor Trunk::transform(Tape& tape, ForwardContext& context, Tensor x, const Tensor& offsets,
                        kernels::AttentionMask mask) {
  require(separate_experts_ == 0 || context.router_scores.defined(),
          "moe.modality_experts: separate_experts() must be called before transform()");
  const Tensor bounds = tape.on_device(offsets);
  return through_layers(tape, context, x, offsets,
                        [&](const MultiHeadAttention& attention, const Tensor& rows, Index /*number*/) {
                          return attention(tape, rows, bounds, mask);
                        });
}

Tensor Trunk::transform(Tape& tape, ForwardContext& context, Tensor x, KeyValueCache& cache) {
  return through_layers(tape, context, x, cache.host_offsets(),
                        [&](const MultiHeadAttention& attention, const Tensor& rows, Index number) {
                          return attention(tape, rows, cache, number);
                        });
}

KeyValueCache Trunk::cache(Arena& arena, Index sequences, Index rows) const {
  require(separate_experts_ == 0,
          "moe.modality_experts = \"separate\": such a model cannot write a text row by row; train a model "
          "with \"shared\"");
  for (const auto& layer : layers_)
    require(!layer->experts || layer->experts->row_by_row(),
            "{}: its router, gate, balancer or experts look at other rows, and later rows do not exist yet, "
            "so a text cannot be written row by row; train a model with moe.router = \"linear\", moe.gate = "
            "\"top_k\" and experts that take rows one by one, and leave moe.balance_inference at false",
            layer->moe_name);
  return KeyValueCache(arena, depth_, sequences, rows, hidden_, token_table().dtype());
}

std::vector<Cost> Trunk::costs(Index tokens, bool image, const std::vector<Extent>& sequences) const {
  std::vector<Cost> costs;
  if (tokens > 0) add_costs("", *texts_, {{1, tokens}}, costs);
  if (image) {
    add_costs("image.", images_->encoder, {{images_->shape.height, images_->shape.width}}, costs);
    if (images_->positions)
      costs.push_back({"image.position_embedding", images_->positions->parameter_count(), 0});
  }
  const auto different = static_cast<Index>(layers_.size());
  for (Index i = 0; i < different; ++i) {
    const Layer& layer = *layers_[static_cast<std::size_t>(i)];
    add_costs(layer.name + ".", layer, sequences, costs, (depth_ - i + different - 1) / different);
  }
  costs.push_back({"final_norm", final_norm_.parameter_count(), 0});
  return costs;
}

std::vector<std::pair<std::string, MoeLayer*>> Trunk::moe_layers() {
  std::vector<std::pair<std::string, MoeLayer*>> found;
  for (const auto& layer : layers_)
    if (layer->experts) found.emplace_back(layer->moe_name, layer->experts.get());
  return found;
}

}  // namespace conclave
