// The last layer of the service: it turns an Answer into the body of a response. Each format has a writer;
// for another format, add a subclass of AnswerWriter.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  virtual std::string_view name() const = 0;  ///< as in ?format=json
  virtual std::string_view type() const = 0;  ///< as in Accept: application/json
  virtual bool writes(TaskKind task) const = 0;
  virtual std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const = 0;
};

/// {"task": ..., ...}; images as PNG in base64.
class JsonWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "json"; }
  std::string_view type() const override { return "application/json"; }
  bool writes(TaskKind /*task*/) const override { return true; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

/// CSV (RFC 4180): one line per class below a header; a header and one line for a caption; one line without a
/// header for an embedding.
class CsvWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "csv"; }
  std::string_view type() const override { return "text/csv"; }
  bool writes(TaskKind task) const override { return !traits_of(task).draws; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

/// The generated image; several images in a grid.
class PngWriter : public AnswerWriter {
 public:
  std::string_view name() const override { return "png"; }
  std::string_view type() const override { return "image/png"; }
  bool writes(TaskKind task) const override { return traits_of(task).draws; }
  std::string write(const ModelFacts& model, const Query& query, const Answer& answer) const override;
};

class Outputs {
 public:
  /// With writers for JSON, CSV and PNG.
  Outputs();
  void add(std::unique_ptr<AnswerWriter> writer) { writers_.push_back(std::move(writer)); }

  /// The writer named `format`, unless that is empty; else the writer with the highest weight in `accept`, an
  /// Accept header (RFC 9110), where the first of equals wins: JSON if any type is accepted. Throws Refusal:
  /// 400 for an unknown format, 406 where `accept` accepts none.
  const AnswerWriter& choose(TaskKind task, std::string_view format, std::string_view accept) const;

 private:
  std::vector<std::unique_ptr<AnswerWriter>> writers_;
};

/// {"model": ..., "tasks": [...], "classes": [...], "classifies": [...], "most_tokens": ...}
std::string facts_text(const ModelFacts& model);
/// {"error": {"code": ..., "message": ...}}. Bytes that are not UTF-8 become replacement characters.
std::string error_text(std::string_view code, std::string_view message);

}  // namespace conclave::service
