// Measures of how well captions match those that people wrote for the same images: the measures of COCO's
// evaluation (Chen et al. 2015). They are defined for a whole set of images.
//
// COCO splits text with Stanford's PTBTokenizer; caption_words is a simple form of it with the same result
// for plain English. Differences: brackets, quotes and symbols such as & and / are dropped, where
// PTBTokenizer keeps them as words of their own or within a word; "cannot" stays one word; abbreviations lose
// their full stops ("u.s." becomes "u" and "s"); and only ASCII letters change to lower case.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

struct JudgedCaption {
  std::string caption;
  std::vector<std::string> references;  ///< captions of the same image, one or more
};

/// The words of `caption` in lower case, without punctuation: "The man's T-shirt, isn't it?" becomes: the man
/// 's t-shirt is n't it. A hyphen within a word is kept, as is a full stop or comma within a number.
std::vector<std::string> caption_words(std::string_view caption);

/// BLEU-1 to BLEU-4 (Papineni et al. 2002) of the whole set: the geometric mean of the n-gram precisions,
/// where an n-gram's count is clipped to its largest count in one reference, times the brevity penalty. The
/// penalty is exp(1 - r / c) if the captions' total length c, in words, is below r, the total length of each
/// image's reference closest in length (the shorter one of a tie); else 1. The result is 0 if a precision is
/// 0.
std::array<double, 4> bleu(std::span<const JudgedCaption> captions);

/// CIDEr-D (Vedantam et al. 2015), averaged over the images, from 0 to 10: the similarity of n-grams of 1 to
/// 4 words with clipped counts, weighted higher the fewer images have the n-gram in their references, times a
/// penalty exp(-d^2 / 72) for a difference in length of d words. A set of one image gives 0, because every
/// n-gram then occurs in all images and has weight 0.
double cider_d(std::span<const JudgedCaption> captions);

}  // namespace conclave
