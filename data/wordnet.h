// WordNet as a text task: the input is a synset's gloss (its definition and examples), the class is the
// lexicographer file it was written in (noun.animal, verb.motion, ...). A synset's split depends on its own
// name alone, crc32(POS + offset) % 20 with e.g. "noun00001740": 0..17 train, 18 validation, 19 test, so that
// every program that reads WordNet so has the same test set. Formats: man 5 wndb (data.POS) and man 5
// lexnames (the 45 lexicographer files).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace conclave {

/// Where Debian's package wordnet-base puts the files.
inline constexpr const char* kWordNetDirectory = "/usr/share/wordnet";

/// Reads data.noun (`classes` "noun": 26 classes) or data.noun, data.verb, data.adj and data.adv ("all": 45).
/// Labels are 0..C-1 in the order of WordNet's own numbers. With `synset_words` the training split has a
/// second text of each of its synsets, of the same class: its words ("car, auto, automobile"); validation and
/// test have the glosses alone.
///
/// `domain` is a list of names, "medicine, anatomy, noun.body": a text is in the domain if its synset points
/// to a topic (`;c`) one of whose words is one of these, or lies in a lexicographer file that is. Upper case
/// and underscores make no difference.
///
/// Throws Error for a missing file, a malformed line (FILE:LINE), another `classes`, or a name in `domain`
/// that is of no synset, with those near it.
TextDataset read_wordnet(const std::string& directory, std::string_view classes, bool synset_words = false,
                         std::string_view domain = {});

/// Of each of some nouns ("gym shoe") its definition, the gloss without the examples that may follow it: that
/// of the first of its senses, in the order of index.noun, that lies in this lexicographer file. Throws Error
/// as above, and for a word without such a sense.
std::vector<std::string> read_definitions(const std::string& directory, std::string_view lexicographer_file,
                                          std::span<const std::string_view> words);

}  // namespace conclave
