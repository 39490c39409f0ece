// How well captions fit those that people gave the same images: the measures of COCO's evaluation (Chen et
// al. 2015), which hold for a whole set of images.
//
// COCO takes words as Stanford's PTBTokenizer does; caption_words is a simple form of it. Of plain English it
// makes the same words. It differs in that brackets, quotes and symbols such as & and / are left out, where
// that one has pieces of its own for them or keeps them in a word, "cannot" stays one word, abbreviations
// lose their full stops ("u.s." is "u" and "s"), and only English's own letters change to lower case.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

struct JudgedCaption {
  std::string caption;
  std::vector<std::string> references;  ///< of the same image, one or more
};

/// In lower case, without punctuation: "The man's T-shirt, isn't it?" is the man 's t-shirt is n't it. A
/// hyphen stays within a word, as do a full stop and a comma within a number.
std::vector<std::string> caption_words(std::string_view caption);

/// BLEU-1 to BLEU-4 (Papineni et al. 2002) of the whole set: the geometric mean of the n-grams' precisions,
/// with counts clipped at the most in one reference, times exp(1 - r / c) where the captions' c words are
/// fewer than r, those of the references closest in length (the shorter, of two as close). 0 where a
/// precision is.
std::array<double, 4> bleu(std::span<const JudgedCaption> captions);

/// CIDEr-D (Vedantam et al. 2015), a mean over the images, from 0 to 10: the likeness of n-grams of 1 to 4
/// words, weighted by how few images have them among their references, with clipped counts and a penalty
/// exp(-d^2 / 72) for a length d words off. A set of one image has none: every n-gram is then in all images,
/// and the result 0.
double cider_d(std::span<const JudgedCaption> captions);

}  // namespace conclave
