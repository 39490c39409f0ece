// Every field of a recipe, once: its key, the member it fills, one line of documentation, and what it may be.
// To add a field: a member with its default in recipe.h, and a line here. Reading, `--set`, messages, `recipe
// show` and the check of limits all use this list.
#include "recipes/settings/recipe_fields.h"

#include "recipes/settings/data_sources.h"

namespace conclave::settings {

void fields(RunRecipe& run, FieldList& field) {
  field("name", run.name, "What this run is called in logs and in the exported model", not_empty());
  field("directory", run.directory, "Folder for metrics and checkpoints; made where it is missing",
        not_empty());
  field("seed", run.seed, "Seed of every random number: initial weights, dropout, order of the data",
        at_least(0));
  field("threads", run.threads, "CPU threads per rank; 0 divides a machine's cores among its ranks",
        between(0, 1024));
  field("precision", run.precision,
        "Precision in which CUDA devices multiply in linear layers during training: f32, tf32 (then also in "
        "convolutions) or bf16; sums and all other operations stay f32, and so do evaluation, use, and CPUs",
        one_of({"f32", "tf32", "bf16"}));
  field("log_every", run.log_every, "Steps between two lines of the log and of the metrics", between(1, 1e9));
  field("trace_step", run.trace_step,
        "Step of which trace-STEP.json in the run's folder shows what each rank did when, for "
        "https://ui.perfetto.dev or chrome://tracing; 0 for none",
        between(0, 1e9));
  field("plugins", run.plugins,
        "Shared libraries with your own kinds of experts, routers or balancers; relative paths are looked up "
        "beside the recipe, then in the working directory, and those of a --set in the working directory "
        "alone. "
        "Who uses the model names them in --set run.plugins",
        not_empty());
}

void fields(DataRecipe& data, FieldList& field) {
  field("source", data.source, "Where examples come from: " + data_source_descriptions(),
        one_of(data_source_names()));
  field("classes", data.classes,
        "wordnet: classes are the lexicographer files of nouns (noun), or of every part of speech (all); "
        "emoji: their groups or subgroups; coco: the category that takes up most of an image, or its "
        "supercategory",
        one_of(data_source_classes()));
  field(
      "task", data.task,
      "glue: the task; mnli_mismatched is mnli, tested on texts of other genres than those it is trained on",
      one_of({"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"}));
  field("synset_words", data.synset_words,
        "wordnet: also train on the words of each training synset, as a second text of its class; validation "
        "and test use the glosses only",
        Rule{});
  field("path", data.path,
        "wordnet, fashion_mnist: the data's folder, empty for that of Debian's package; fashion_gloss: one "
        "folder with the files of both; table: one .csv, .tsv or .jsonl file, split 90 / 5 / 5 by a hash of "
        "each text; glue: folder with the folders of all tasks, or with the task's train.tsv and dev.tsv; "
        "coco: folder with annotations, train2017 and val2017; image_folder: folder with a folder of images "
        "for each class, or with folders train, validation and test that each have those",
        any_text());
  field("train", data.train, "table: .csv, .tsv or .jsonl file of the rows to train on, in place of path",
        any_text());
  field("validation", data.validation, "table: file of the rows to validate on, beside train; empty for none",
        any_text());
  field("test", data.test, "table: file of the rows to test on, beside train; empty for none", any_text());
  field("text_column", data.text_column, "table: column (JSON key) of the text", not_empty());
  field("label_column", data.label_column, "table: column (JSON key) of the class", not_empty());
  field("domain", data.domain,
        "wordnet: texts to single out, by topics (medicine, law) and lexicographer files (noun.body), "
        "separated by commas; how often they reach each expert is measured; see moe.domain_expert",
        any_text());
  field("domain_column", data.domain_column,
        "table: column (JSON key) that is neither empty, 0 nor false for texts to single out; empty for none",
        any_text());
  field("client_column", data.client_column,
        "table: column (JSON key) that names the client of each row, such as a person's name or number, for "
        "privacy.unit = \"client\"; a single file is then split by client; empty for none",
        any_text());
  field("inputs", data.inputs,
        data_sources_that(&DataSource::has_both) +
            ": what the model is shown: the picture (image); the name and keywords, captions or definition "
            "(text); or both",
        one_of({"image", "text", "both"}));
  field("skip_bad", data.skip_bad,
        data_sources_that(&DataSource::skips_bad) +
            ": leave out and count rows and images that cannot be read; false: the first is an error",
        Rule{});
  field("parts", data.parts, "Number of sites that the examples are divided among, to try out a federation",
        between(1, 1e6));
  field("part", data.part, "Number of this site's part, from 0", between(0, 1e6));
  field("parts_by", data.parts_by,
        "How examples are divided among the sites: each example at random (random), each class as a whole "
        "(label), or each class in shares drawn from a Dirichlet distribution (dirichlet)",
        one_of({"random", "label", "dirichlet"}));
  field("parts_alpha", data.parts_alpha,
        "Concentration of the Dirichlet distribution; the smaller, the more the parts differ",
        between(0.001, 1e6));
  field("parts_seed", data.parts_seed, "Seed of the division; the same at every site", at_least(0));
  field("vocabulary", data.vocabulary, "Subword tokens the tokenizer learns from the training texts",
        between(16, 1e6));
  field("max_length", data.max_length,
        "Tokens kept of a text, or of a pair of texts together; the rest is cut off", between(2, 65536));
}

void fields(ImageRecipe& image, FieldList& field) {
  field("size", image.size,
        "Images are resized to this many pixels a side; 0 keeps their size, which is not possible for coco "
        "and image_folder, whose images have different sizes",
        between(0, 4096));
  field("stem", image.stem, "Output channels of the first convolution, of 3 x 3 pixels", between(1, 4096));
  field("scattering", image.scattering,
        "Whether fixed wavelets replace the first convolution: 81 features of each channel for every 4 x 4 "
        "pixels, which are not trained (Bruna & Mallat 2013)",
        Rule{});
  field("blocks", image.blocks,
        "Inverted residual blocks: kernel, expansion, channels, stride, then se for squeeze-excitation, and "
        "relu or hs (hard-swish): k5 x4 c48 s2 se hs",
        not_empty());
  field("norm", image.norm,
        "Normalization of channels: each image in groups of channels by itself (group), or the whole batch "
        "(batch)",
        one_of({"group", "batch"}));
  field("depthwise", image.depthwise,
        "Blocks convolve each channel by itself; false: every channel sees all, as in older networks",
        Rule{});
  field("tokens", image.tokens,
        "Rows that an image has in the layers with experts, made of the pixels that the blocks leave: their "
        "mean (mean), all of them as one row (flat), or a row for each pixel (grid)",
        one_of({"mean", "flat", "grid"}));
  field("shift", image.shift,
        "Largest random shift of images in training, in pixels; images that the model draws are not shifted",
        between(0, 1024));
  field("flip", image.flip, "Whether half of the images, drawn at random, are mirrored in training", Rule{});
  field("erase", image.erase, "Share of images of which a random rectangle is erased in training",
        between(0, 1));
}

void fields(TasksRecipe& tasks, FieldList& field) {
  for (const TaskTraits& task : kAllTasks) switch (task.kind) {
      case TaskKind::classify:
        field("classify", tasks.classify, "Text, image or both in, class out: weight against the other tasks",
              between(0, 1e6));
        break;
      case TaskKind::caption:
        field("caption", tasks.caption,
              "Image in, a caption out (the class's name if the data has no captions): weight against the "
              "other tasks",
              between(0, 1e6));
        break;
      case TaskKind::generate:
        field("generate", tasks.generate,
              "Caption in, image out, by flow matching: weight against the other tasks", between(0, 1e6));
        break;
      case TaskKind::embed:  // not trained
        break;
    }
}

void fields(GenerateRecipe& generate, FieldList& field) {
  field("patch", generate.patch,
        "Side in pixels of the squares that an image is cut into, each a token; divides its sides",
        between(1, 256));
  field("text_dropout", generate.text_dropout,
        "Share of texts hidden in training, from which the model learns to draw without a text, as guidance "
        "needs",
        between(0, 0.9));
}

void fields(ModelRecipe& model, FieldList& field) {
  field("hidden", model.hidden, "Width of a token's vector between layers", between(1, 65536));
  field("embedding", model.embedding,
        "Width of the tables of tokens and positions, which a linear layer maps to hidden (ALBERT); at most "
        "hidden; 0: tables as wide as hidden, without that layer",
        between(0, 65536));
  field("layers", model.layers, "Transformer layers: attention, then experts or a feed-forward block",
        between(1, 1024));
  field("share_layers", model.share_layers,
        "Whether all layers have the same parameters, with router and experts (ALBERT); with moe.every above "
        "1, that many sets of parameters take turns",
        Rule{});
  field("heads", model.heads, "Attention heads; divides hidden", between(1, 1024));
  field("ffn", model.ffn, "Inner width of a feed-forward block, and of each expert", between(1, 262144));
  field("dropout", model.dropout, "Share of activations zeroed in training, after attention and experts",
        between(0, 0.95));
  field("embedding_dropout", model.embedding_dropout,
        "Share of the embeddings' activations zeroed in training", between(0, 0.95));
  field("token_dropout", model.token_dropout, "Share of whole input tokens hidden from the model in training",
        between(0, 0.95));
  field("text_dropout", model.text_dropout,
        "Share of texts with an image that are hidden from a classifier in training, so that it learns to "
        "use the image; all tokens of such a text are replaced as by token_dropout",
        between(0, 0.95));
  field("bigrams", model.bigrams,
        "Number of the most frequent pairs of adjacent tokens for a linear model beside the encoder, which "
        "scores texts by their tokens and these pairs; 0 for no such model",
        between(0, 1e8));
  field("bigram_weight", model.bigram_weight,
        "Weight of the linear model's scores, added to the encoder's logits", between(0, 100));
  field("fusion", model.fusion,
        "How a classifier combines images with texts: in one sequence from the first layer on (joint); each "
        "in its own sequence, then by cross-attention and learned weights of the two (cross); or side by "
        "side at its head (late); without both, it is joint",
        one_of({"joint", "cross", "late"}));
  field("image_weight", model.image_weight,
        "Initial weight of the image, of 1 for image and text together; read by fusion cross",
        between(0.001, 0.999));
}

void fields(MoeRecipe& moe, FieldList& field) {
  field("every", moe.every, "Every how many layers one has experts: 1 is all of them, 2 every second",
        between(1, 1024));
  field("experts", moe.experts, "Routed experts per MoE layer, over all ranks", between(1, 4096));
  field("router", moe.router,
        "What scores the experts: each token alone (linear), each token after self-attention "
        "(attention_token), or its whole sequence (attention); or a plug-in's kind",
        not_empty());
  field("router_heads", moe.router_heads,
        "Heads of the router's self-attention; divides model.hidden; read by routers attention and "
        "attention_token",
        between(1, 1024));
  field("router_noise", moe.router_noise,
        "Standard deviation of the noise on the router's scores in training", between(0, 100));
  field("route_cache_mib", moe.route_cache_mib,
        "MiB per layer and rank for a cache of the routing scores of texts seen before, in evaluation and "
        "use; for routers attention and attention_token; 0 for none",
        between(0, 1 << 20));
  field("top_k", moe.top_k,
        "Number of experts each token is sent to, the largest number if top_p is below 1; at most experts",
        between(1, 64));
  field("gate", moe.gate,
        "Whether each token chooses its top_k experts (top_k), or each expert chooses the same number of "
        "tokens of the batch (expert_choice, with balancer none; for comparison)",
        one_of({"top_k", "expert_choice"}));
  field("top_p", moe.top_p,
        "A token is sent to its best experts until their probabilities sum to this, at most to top_k; 1: "
        "always to top_k. A model trained with 1 may be used with less: eval and predict --set moe.top_p=0.7",
        between(0.001, 1));
  field("k_min", moe.k_min, "Fewest experts a token is sent to where top_p is below 1; at most top_k",
        between(1, 64));
  field("shared_experts", moe.shared_experts, "Experts that every token passes besides the routed ones",
        between(0, 64));
  field("expert", moe.expert,
        "Kind of all experts: feed_forward, gated or a plug-in's; or how many are of each, in the order of "
        "their numbers: \"6 feed_forward, 2 gated\"",
        not_empty());
  field("modality_experts", moe.modality_experts,
        "Whether image rows and text rows use all experts (shared), or image rows only the first half and "
        "text rows only the second (separate, with balancer none or aux_loss; for comparison)",
        one_of({"shared", "separate"}));
  field("balancer", moe.balancer,
        "How the experts' loads are balanced: not at all (none), by a loss term (aux_loss), by a routing "
        "bias that follows the loads (bias), or by gradient normalization (grad_norm); or a plug-in's kind",
        not_empty());
  field("options", moe.options,
        "Options that the plug-ins' experts, router or balancer read, NAME=VALUE each; the model refuses "
        "others",
        named_values());
  field("aux_coefficient", moe.aux_coefficient, "Weight of the balancing loss; read by balancer aux_loss",
        between(0, 100));
  field("bias_rate", moe.bias_rate, "Step of the routing bias per training step; read by balancer bias",
        between(0, 10));
  field("grad_norm_rate", moe.grad_norm_rate,
        "Share of the loads' imbalance that one step corrects; read by balancer grad_norm", between(0, 1));
  field("grad_norm_rounds", moe.grad_norm_rounds,
        "Number of corrections to the selection of experts within a training batch, by the expected gradient "
        "norms; read by balancer grad_norm",
        between(0, 100));
  field("balance_inference", moe.balance_inference,
        "Whether batches are corrected in evaluation and use, too: loads are even, but the experts of a text "
        "then depend on the other texts of its batch; read by balancer grad_norm",
        Rule{});
  field("grad_norm_alpha", moe.grad_norm_alpha,
        "Exponent of an expert's remaining loss in the speed at which it is to learn, relative to the "
        "others; read by balancer grad_norm",
        between(0, 10));
  field("grad_norm_moves", moe.grad_norm_moves,
        "What balancer grad_norm moves: the weights of the experts' gradients, the bias of their selection, "
        "or both",
        one_of({"both", "weights", "bias"}));
  field("z_coefficient", moe.z_coefficient, "Weight of the router z-loss, which keeps router scores small",
        between(0, 100));
  field(
      "entropy_coefficient", moe.entropy_coefficient,
      "Weight of the entropy of the router's probabilities, which keeps top_p from spreading to many experts",
      between(0, 100));
  field("domain_expert", moe.domain_expert,
        "Number of the expert in every layer that is to serve the texts of data.domain; -1 for none",
        between(-1, 4095));
  field("domain_prior", moe.domain_prior,
        "Weight of the loss that makes the router send tokens of data.domain's texts to domain_expert: -log "
        "of the expert's probability",
        between(0, 1000));
  field("domain_steps", moe.domain_steps,
        "Share of training in which domain_prior acts, falling linearly to 0; evaluation never sees it",
        between(0, 1));
  field("capacity_factor", moe.capacity_factor,
        "Receive buffer per rank, in even shares of a batch's routed tokens; more tokens take further "
        "rounds; not read if experts want whole sequences, whose buffer has room for all tokens",
        between(0.05, 1024));
}

void fields(TrainRecipe& train, FieldList& field) {
  field("start_from", train.start_from,
        "Checkpoint, or folder of a run, of another model to start from: its tokenizer, in place of a new "
        "one of data.vocabulary, and those of its tensors that have the name and shape of one of this model; "
        "empty for none",
        any_text());
  field("epochs", train.epochs,
        "Passes over the training split, rounded up to whole steps; unused where steps is given",
        between(1, 1e6));
  field("steps", train.steps, "Optimizer steps to train; 0 leaves it to epochs", between(0, 1e12));
  field("batch_tokens", train.batch_tokens, "Most tokens in a global batch, over all ranks", between(2, 1e9));
  field("accumulate", train.accumulate, "Batches whose mean gradient is taken in one optimizer step",
        between(1, TrainRecipe::kMostAccumulate));
  field("optimizer", train.optimizer,
        "adamw (Loshchilov and Hutter 2019), or sgd, which follows the running mean of the gradients (with "
        "beta1 = 0, the gradients themselves) and does not read beta2 and epsilon",
        one_of({"adamw", "sgd"}));
  field("learning_rate", train.learning_rate, "Peak learning rate, reached at the end of warmup",
        between(0, 10));
  field("warmup", train.warmup, "Share of all steps in which the learning rate climbs from 0 to its peak",
        between(0, 1));
  field("schedule", train.schedule, "How the learning rate goes from its peak to final_learning_rate",
        one_of({"constant", "linear", "cosine"}));
  field("final_learning_rate", train.final_learning_rate,
        "Learning rate to which linear and cosine fall; reached one step after the last", between(0, 10));
  field("weight_decay", train.weight_decay, "Decoupled weight decay, per unit of learning rate",
        between(0, 10));
  field("beta1", train.beta1, "Decay of the gradient's running mean", between(0, 0.999999));
  field("beta2", train.beta2, "AdamW's decay of the squared gradient's running mean", between(0, 0.999999));
  field("epsilon", train.epsilon, "AdamW's addend to the root of the squared gradient's mean",
        between(1e-30, 1));
  field("clip_norm", train.clip_norm,
        "Largest norm of the whole gradient; a longer gradient is scaled down to it; 0 is off",
        between(0, 1e9));
  field("label_smoothing", train.label_smoothing, "Share of the target spread evenly over all classes",
        between(0, 0.95));
  field("masked_weight", train.masked_weight,
        "Weight of a second task, to predict the tokens that model.token_dropout hid; 0 for none",
        between(0, 100));
  field("ema", train.ema,
        "Decay of a running mean of the weights, and of batch normalization's statistics, evaluated in their "
        "place; 0 is off",
        between(0, 0.999999));
  field("evaluate_every", train.evaluate_every, "Steps between validations; 0 validates after each epoch",
        between(0, 1e12));
}

void fields(PrivacyRecipe& privacy, FieldList& field) {
  field("unit", privacy.unit,
        "Unit of differential privacy. none: off; record: each example (DP-SGD); client: all examples with "
        "the same value in data.client_column",
        one_of({"none", "record", "client"}));
  field("clip_norm", privacy.clip_norm,
        "Largest norm of an example's gradient, and so of the mean over a client's examples; a longer "
        "gradient is scaled down to it",
        between(1e-9, 1e9));
  field("noise_multiplier", privacy.noise_multiplier,
        "Standard deviation of the noise on the sum of gradients, divided by clip_norm; 0: the least noise "
        "with which all steps keep within epsilon",
        between(0, 1e6));
  field("epsilon", privacy.epsilon,
        "Privacy budget; training stops before a step that would exceed it; 0: no budget, and all steps are "
        "taken",
        between(0, 1e6));
  field("delta", privacy.delta, "Probability with which epsilon may not hold", between(1e-15, 0.1));
  field("batch", privacy.batch,
        "Average number of examples, or clients, in a step, each drawn independently; they are computed one "
        "after another in batches of train.batch_tokens",
        between(1, 1e9));
  field("rate", privacy.rate,
        "Probability with which each example, or client, is drawn for a step, in place of batch; 0: batch "
        "divided by their number",
        between(0, 1));
  field("ledger", privacy.ledger,
        "File in which each run that names it records what its checkpoints spend, so that all runs on the "
        "same people's data, and runs that continue from their checkpoints, keep within epsilon together; "
        "a checkpoint that is not in it is recorded in full when training resumes from it; empty: each run "
        "counts for itself",
        any_text());
}

void fields(QuantizationRecipe& quantization, FieldList& field) {
  field("enabled", quantization.enabled,
        "Whether to train with numbers rounded as integer inference rounds them (fake quantization)", Rule{});
  field("layers", quantization.layers,
        "Layers that are quantized; embeddings and normalizations never are. Depthwise convolutions, which "
        "are bound by memory, take longer in integers",
        one_of({"linear", "experts", "convolutions", "depthwise", "router", "heads"}));
  field("weight_bits", quantization.weight_bits,
        "Bits of a weight; each output channel has a scale of its own", between(2, 8));
  field("activation_bits", quantization.activation_bits,
        "Bits of a product's input. With 7, two products fit the 16 bits in which CPUs without VNNI add "
        "them; with 8, such CPUs take twice as long",
        between(2, 8));
  field("activations", quantization.activations,
        "Which inputs share a scale: those of one token, computed when it arrives (token), or those of a "
        "whole tensor, from the observer (tensor)",
        one_of({"token", "tensor"}));
  field("observer", quantization.observer,
        "Range of the inputs with activations tensor: the widest ever seen (min_max), the moving average of "
        "each step's widest (moving_average), or the range of which percentile says how many inputs lie "
        "within (percentile)",
        one_of({"min_max", "moving_average", "percentile"}));
  field("momentum", quantization.momentum, "Weight of a step in the observer's average or counts",
        between(1e-6, 1));
  field("percentile", quantization.percentile,
        "Percentage of inputs that are within the range; read by observer percentile", between(50, 100));
  field("learned", quantization.learned,
        "Whether the scales of weights, and of inputs with activations tensor, are learned (LSQ)", Rule{});
  field("start_step", quantization.start_step,
        "Steps before numbers are rounded; until then, ranges are observed", between(0, 1e12));
  field("inference", quantization.inference,
        "How the trained model computes when it is used: with integer products (integers), or with rounded "
        "numbers, as in training and its evaluations (rounded); in depthwise convolutions, CUDA devices "
        "always use rounded numbers",
        one_of({"integers", "rounded"}));
}

void fields(ParallelRecipe& parallel, FieldList& field) {
  field("expert_parallel", parallel.expert_parallel,
        "Ranks that share one set of experts; divides the ranks and moe.experts; 0 is all ranks",
        between(0, 65536));
  field("bucket_kib", parallel.bucket_kib, "Gradients summed over ranks at a time, in KiB",
        between(1, 1 << 20));
  field("dispatch_chunks", parallel.dispatch_chunks,
        "Number of parts in which rows are sent to their experts, so that some travel while others are "
        "computed; 0 is 2 on CUDA devices, else 1; not read if experts want whole sequences, or if every "
        "rank has all experts",
        between(0, 4));
}

void fields(CheckpointRecipe& checkpoint, FieldList& field) {
  field("every", checkpoint.every, "Steps between checkpoints; 0 writes one at the end only",
        between(0, 1e12));
  field("keep", checkpoint.keep, "Newest checkpoints kept; older ones are removed", between(1, 1e6));
  field("asynchronous", checkpoint.asynchronous, "Whether training goes on while a checkpoint is written",
        Rule{});
}

Tables tables_of(Recipe& recipe) {
  TableList table;
  table("run", recipe.run, "The run itself");
  table("data", recipe.data, "The training data");
  table("tasks", recipe.tasks, "The model's tasks, with their weights in the steps; 0: not trained");
  table("image", recipe.image, "The encoder of images, a MobileNetV3; for data that has some");
  table("generate", recipe.generate, "How images are generated; for tasks.generate");
  table("model", recipe.model, "The encoder around the experts");
  table("moe", recipe.moe, "The mixture of experts");
  table("train", recipe.train, "Optimizer and schedule");
  table("privacy", recipe.privacy, "Differential privacy of the training examples");
  table("quantization", recipe.quantization,
        "Quantization, with which the trained model computes products with integers");
  table("parallel", recipe.parallel, "How the work is divided among ranks");
  table("checkpoint", recipe.checkpoint, "What is saved, and when");
  return std::move(table).take();
}

}  // namespace conclave::settings
