// WordNet as a text task: the input is a synset's gloss (its definition and examples), the class is the
// synset's lexicographer file (noun.animal, verb.motion, ...). A synset's split depends on its own name
// alone, crc32(POS + offset) % 20 with e.g. "noun00001740": 0..17 train, 18 validation, 19 test, so that the
// test set is the same for every user. Formats: man 5 wndb (data.POS) and man 5 lexnames (the 45
// lexicographer files).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace conclave {

/// Path at which Debian's package wordnet-base installs the files.
inline constexpr const char* kWordNetDirectory = "/usr/share/wordnet";

/// Reads data.noun (`classes` "noun": 26 classes) or data.noun, data.verb, data.adj and data.adv ("all": 45).
/// Labels are 0..C-1 in the order of WordNet's own numbers. With `synset_words` the training split has a
/// second text for each of its synsets, with the same class: the synset's words ("car, auto, automobile").
/// Validation and test have only the glosses.
///
/// `domain` is a comma-separated list of names, "medicine, anatomy, noun.body". A text is in the domain if
/// its synset points to a topic (`;c`) that has one of these names among its words, or if its lexicographer
/// file is one of these names. Names are compared without regard to case, and underscores equal spaces.
///
/// Throws Error for a missing file, a malformed line (FILE:LINE), an unknown value of `classes`, or a name in
/// `domain` that is neither a topic of these synsets nor a lexicographer file; the message then lists similar
/// names.
TextDataset read_wordnet(const std::string& directory, std::string_view classes, bool synset_words = false,
                         std::string_view domain = {});

/// The definition of each of the nouns `words` ("gym shoe"): the gloss without its examples. It is taken from
/// the first sense of the noun, in the order of index.noun, that lies in `lexicographer_file`. Throws Error
/// for a missing file, a malformed line, and a word without such a sense.
std::vector<std::string> read_definitions(const std::string& directory, std::string_view lexicographer_file,
                                          std::span<const std::string_view> words);

}  // namespace conclave
