// A graph of ONNX's standard operators (opset 17, the first with LayerNormalization), put together node by
// node and written as a file that ONNX Runtime runs. https://onnx.ai/onnx/operators
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "recipes/onnx/protobuf.h"

namespace conclave::onnx {

/// The name of a tensor in the graph; "" in place of an operator's optional input.
using Value = std::string;
using Integers = std::vector<std::int64_t>;

/// As TensorProto.DataType numbers them.
enum class ElementType : std::int64_t { f32 = 1, u8 = 2, i8 = 3, i32 = 6, i64 = 7, boolean = 9 };

struct Attribute {
  std::string name;
  std::variant<std::int64_t, float, Integers> value;
};

/// A length that is known, or the name of one that every run brings along.
using Dimension = std::variant<std::int64_t, std::string>;

class Graph {
 public:
  Value input(const std::string& name, ElementType type, const std::vector<Dimension>& shape);
  /// `value` becomes an output of that name.
  void output(const Value& value, const std::string& name, ElementType type,
              const std::vector<Dimension>& shape);

  /// A node with one output: graph("MatMul", {a, b}).
  Value operator()(const char* op, const std::vector<Value>& inputs,
                   const std::vector<Attribute>& attributes = {});
  /// With several.
  std::vector<Value> several(std::size_t outputs, const char* op, const std::vector<Value>& inputs,
                             const std::vector<Attribute>& attributes = {});

  /// A tensor that the file holds, under that name, whatever the scope; once where it is asked for again.
  Value tensor(const std::string& name, const Tensor& values);
  /// [integers]; once for all that are alike.
  Value integers(const Integers& values);
  /// Without dimensions.
  Value scalar(float value);
  Value scalar(std::int64_t value);
  Value scalar(std::uint8_t value);

  Value reshape(const Value& x, const Integers& shape) { return (*this)("Reshape", {x, integers(shape)}); }
  Value transpose(const Value& x, Integers order) {
    return (*this)("Transpose", {x}, {{"perm", std::move(order)}});
  }
  Value cast(const Value& x, ElementType to) {
    return (*this)("Cast", {x}, {{"to", static_cast<std::int64_t>(to)}});
  }

  /// While it lives, names begin with those of all scopes: "layers.0.moe.".
  class Scope {
   public:
    Scope(Graph& graph, const std::string& name) : graph_(graph), length_(graph.prefix_.size()) {
      if (!name.empty()) graph.prefix_ += name + ".";
    }
    ~Scope() { graph_.prefix_.resize(length_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    std::size_t length_;
  };

  /// The whole file. Throws Error where it were longer than the 2 GiB that a message of Protocol Buffers may
  /// be.
  std::string file(const std::map<std::string, std::string>& metadata) const;

 private:
  Value initializer(const Value& name, ElementType type, std::span<const std::int64_t> shape,
                    std::string_view bytes);
  Value constant(ElementType type, std::span<const std::int64_t> shape, std::string_view bytes);

  std::string prefix_;
  std::map<std::string, std::int64_t> numbers_;  // of names so far
  std::map<std::string, Value> constants_;       // by their type, shape and bytes
  std::set<Value> tensors_;
  Message nodes_;  // of GraphProto: all but its inputs and outputs
  Message ends_;
};

}  // namespace conclave::onnx
