// SPDX-License-Identifier: Apache-2.0
#include "io/pickle.h"

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "core/check.h"
#include "io/json.h"
#include "io/safetensors_layout.h"

namespace deltacome {
namespace {

constexpr size_t kMaxPickleBytes = 64u << 20;  // names of a hundred thousand tensors take a tenth
constexpr size_t kMaxValues = 4u << 20;        // on the stack and in containers, ever
constexpr size_t kMaxNodes = 1u << 19;         // ten for a tensor
constexpr size_t kMaxTextBytes = 4096;         // of a name
constexpr size_t kMaxDimensions = 16;

enum class Kind : uint8_t {
  kMark,
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kGlobal,
  kTuple,
  kList,
  kDict,  // of alternating keys and values
  kStorage,
  kTensor
};

std::string_view name_of(Kind kind) {
  constexpr std::array<std::string_view, 12> kNames{"a mark",   "None",   "a bool",    "an integer",
                                                    "a number", "a text", "a name",    "a tuple",
                                                    "a list",   "a dict", "a storage", "a tensor"};
  return kNames[static_cast<size_t>(kind)];
}

/// Values are small: what is long is a node. Nodes belong to the reader, so that values may point
/// to each other in any way and nothing is freed by recursion.
struct Node;
struct Value {
  Kind kind = Kind::kNone;
  int64_t integer = 0;   // kInt, kBool
  Node* node = nullptr;  // kText and what follows
};
struct Node {
  std::string text;  // kText, kGlobal ("module.name")
  std::vector<Value> items;
  PickledTensor tensor;  // kTensor; of kStorage its first members
};

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::array<std::string_view, 10> kStorages{
    "FloatStorage", "HalfStorage",  "BFloat16Storage", "DoubleStorage", "LongStorage",
    "IntStorage",   "ShortStorage", "CharStorage",     "ByteStorage",   "BoolStorage"};

bool is_known_global(std::string_view name) {
  if (name == kOrderedDict || name == kRebuildTensor || name == kRebuildParameter) return true;
  constexpr std::string_view kPrefix = "torch.";
  return name.starts_with(kPrefix) && std::find(kStorages.begin(), kStorages.end(),
                                                name.substr(kPrefix.size())) != kStorages.end();
}

class Reader {
 public:
  Reader(std::span<const std::byte> pickle, const std::string& where)
      : bytes_(pickle), where_(where) {}

  std::vector<PickledTensor> read() {
    if (bytes_.size() > kMaxPickleBytes)
      corrupt("{} bytes, expected at most {}", bytes_.size(), kMaxPickleBytes);
    while (!stopped_) step();
    if (stack_.size() != 1) corrupt("{} values are left at its end, expected 1", stack_.size());
    return tensors_of(stack_.front());
  }

 private:
  template <class... Args>
  [[noreturn]] void corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kCorrupt, "{}: byte {} of the pickle: {}", where_, opcode_at_,
         fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  [[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kUnsupported, "{}: byte {} of the pickle: {}", where_, opcode_at_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view take(size_t n) {
    if (n > bytes_.size() - at_) corrupt("{} bytes are left of {}", bytes_.size() - at_, n);
    const std::string_view taken(reinterpret_cast<const char*>(bytes_.data()) + at_, n);
    at_ += n;
    return taken;
  }
  uint64_t number(int n) {
    uint64_t value = 0;
    const std::string_view taken = take(static_cast<size_t>(n));
    for (int i = n - 1; i >= 0; --i)
      value = value << 8 | static_cast<unsigned char>(taken[static_cast<size_t>(i)]);
    return value;
  }
  std::string line() {
    const size_t begin = at_;
    while (take(1) != "\n") {
      if (at_ - begin > kMaxTextBytes) corrupt("a line of more than {} bytes", kMaxTextBytes);
    }
    return {reinterpret_cast<const char*>(bytes_.data()) + begin, at_ - begin - 1};
  }

  void count_values(size_t n) {
    n_values_ += n;
    if (n_values_ > kMaxValues) corrupt("more than {} values", kMaxValues);
  }
  void push(Value value) {
    count_values(1);
    stack_.push_back(value);
  }
  Node& push_node(Kind kind) {
    if (nodes_.size() == kMaxNodes) corrupt("more than {} values with members", kMaxNodes);
    nodes_.emplace_back();
    push({kind, 0, &nodes_.back()});
    return nodes_.back();
  }
  void push_text(size_t n) {
    if (n > kMaxTextBytes) corrupt("a text of {} bytes, expected at most {}", n, kMaxTextBytes);
    push_node(Kind::kText).text = take(n);
  }
  Value pop() {
    if (stack_.empty() || stack_.back().kind == Kind::kMark) corrupt("a value is missing");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }
  Value pop(Kind kind, const char* what) {
    const Value value = pop();
    if (value.kind != kind)
      unsupported("{} is {}, expected {}", what, name_of(value.kind), name_of(kind));
    return value;
  }
  /// Values behind the last mark, which goes too.
  std::vector<Value> pop_to_mark() {
    const auto mark = std::find_if(stack_.rbegin(), stack_.rend(),
                                   [](const Value& v) { return v.kind == Kind::kMark; });
    if (mark == stack_.rend()) corrupt("there is no mark");
    std::vector<Value> values(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return values;
  }

  void push_tuple(std::vector<Value> items) { push_node(Kind::kTuple).items = std::move(items); }
  void push_tuple(size_t n) {
    std::vector<Value> items(n);
    for (size_t i = n; i > 0; --i) items[i - 1] = pop();
    push_tuple(std::move(items));
  }
  void push_global(const std::string& module, const std::string& name) {
    const std::string global = fmt::format("{}.{}", module, name);
    if (!is_known_global(global)) {
      unsupported(
          "the global {} is not among those of a checkpoint of tensors (OrderedDict, "
          "_rebuild_tensor_v2, _rebuild_parameter, torch storages); nothing of it was executed",
          quote(global));
    }
    push_node(Kind::kGlobal).text = global;
  }
  void add_items(Kind kind, std::vector<Value> values) {
    if (stack_.empty() || stack_.back().kind != kind)
      corrupt("items for what is not {}", name_of(kind));
    if (kind == Kind::kDict && values.size() % 2 != 0) corrupt("a key has no value");
    count_values(values.size());
    auto& items = stack_.back().node->items;
    items.insert(items.end(), values.begin(), values.end());
  }
  void memoize(uint64_t key) {
    if (stack_.empty()) corrupt("nothing to remember");
    if (memo_.size() == kMaxValues) corrupt("more than {} values are remembered", kMaxValues);
    memo_[key] = stack_.back();
  }
  void recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) corrupt("value {} was not remembered", key);
    push(found->second);
  }

  void step();
  void push_long();
  void load_storage();
  void reduce();
  void rebuild_tensor(const std::vector<Value>& args);
  std::vector<int64_t> sizes(const Value& value, const char* what) const;
  std::vector<PickledTensor> tensors_of(const Value& top) const;

  std::span<const std::byte> bytes_;
  const std::string& where_;
  size_t at_ = 0, opcode_at_ = 0, n_values_ = 0;
  bool stopped_ = false;
  std::vector<Value> stack_;
  std::deque<Node> nodes_;  // no element moves
  std::unordered_map<uint64_t, Value> memo_;
};

/// The opcodes of protocols 2 to 4 that torch.save writes for tensors.
void Reader::step() {
  opcode_at_ = at_;
  const auto opcode = static_cast<unsigned char>(take(1)[0]);
  switch (opcode) {
    case 0x80:  // PROTO
      if (const uint64_t version = number(1); version < 2 || version > 5)
        unsupported("protocol {}, expected 2 to 5", version);
      return;
    case 0x95:  // FRAME: its length is a hint
      number(8);
      return;
    case '.':
      stopped_ = true;
      return;
    case '(':
      return push({Kind::kMark, 0, nullptr});
    case 'N':
      return push({});
    case 0x88:
    case 0x89:
      return push({Kind::kBool, opcode == 0x88 ? 1 : 0, nullptr});
    case 'J':
      return push({Kind::kInt, static_cast<int32_t>(number(4)), nullptr});
    case 'K':
      return push({Kind::kInt, static_cast<int64_t>(number(1)), nullptr});
    case 'M':
      return push({Kind::kInt, static_cast<int64_t>(number(2)), nullptr});
    case 0x8a:
      return push_long();
    case 'G':  // a double: no tensor needs its value
      number(8);
      return push({Kind::kFloat, 0, nullptr});
    case 'X':
      return push_text(number(4));
    case 0x8c:
      return push_text(number(1));
    case ']':
      push_node(Kind::kList);
      return;
    case '}':
      push_node(Kind::kDict);
      return;
    case ')':
      return push_tuple(size_t{0});
    case 0x85:
    case 0x86:
    case 0x87:
      return push_tuple(size_t{opcode} - 0x84);
    case 't':
      return push_tuple(pop_to_mark());
    case 'a':
      return add_items(Kind::kList, {pop()});
    case 'e':
      return add_items(Kind::kList, pop_to_mark());
    case 's': {
      const Value value = pop(), key = pop();
      return add_items(Kind::kDict, {key, value});
    }
    case 'u':
      return add_items(Kind::kDict, pop_to_mark());
    case 'q':
      return memoize(number(1));
    case 'r':
      return memoize(number(4));
    case 0x94:
      return memoize(memo_.size());
    case 'h':
      return recall(number(1));
    case 'j':
      return recall(number(4));
    case 'c': {
      const std::string module = line();
      return push_global(module, line());
    }
    case 0x93: {
      const Value name = pop(Kind::kText, "the name of a global");
      const Value module = pop(Kind::kText, "the module of a global");
      return push_global(module.node->text, name.node->text);
    }
    case 'Q':
      return load_storage();
    case 'R':
      return reduce();
    case 'b':  // the state of an OrderedDict: _metadata of a module, which tensors do not need
      pop();
      if (stack_.empty() || stack_.back().kind != Kind::kDict)
        unsupported("a state is set on what is no dict");
      return;
    default:
      unsupported("opcode 0x{:02x} is not among those of a checkpoint of tensors", opcode);
  }
}

void Reader::push_long() {
  const uint64_t n = number(1);
  if (n > 8) corrupt("an integer of {} bytes, expected at most 8", n);
  uint64_t value = number(static_cast<int>(n));
  const int shift = static_cast<int>(64 - 8 * n);
  if (n > 0 && n < 8) value = static_cast<uint64_t>(static_cast<int64_t>(value << shift) >> shift);
  push({Kind::kInt, static_cast<int64_t>(value), nullptr});
}

/// A persistent id: ('storage', class, key, device, elements).
void Reader::load_storage() {
  const Value id = pop(Kind::kTuple, "a persistent id");
  const std::vector<Value>& items = id.node->items;
  const bool fits = items.size() == 5 && items[0].kind == Kind::kText &&
                    items[0].node->text == "storage" && items[1].kind == Kind::kGlobal &&
                    items[1].node->text.ends_with("Storage") && items[2].kind == Kind::kText &&
                    items[3].kind == Kind::kText && items[4].kind == Kind::kInt &&
                    items[4].integer >= 0;
  if (!fits) unsupported("a persistent id is no ('storage', class, key, device, elements)");
  const std::string& type = items[1].node->text;
  Node& storage = push_node(Kind::kStorage);
  storage.tensor.type = type.substr(type.rfind('.') + 1);
  storage.tensor.storage = items[2].node->text;
  storage.tensor.storage_size = items[4].integer;
}

void Reader::reduce() {
  const Value args = pop(Kind::kTuple, "the arguments of a call");
  const std::string& callee = pop(Kind::kGlobal, "what is called").node->text;
  const std::vector<Value>& items = args.node->items;
  if (callee == kRebuildTensor) return rebuild_tensor(items);
  if (callee == kRebuildParameter) {
    if (items.size() != 3 || items[0].kind != Kind::kTensor)
      unsupported("{} of something else than (tensor, requires_grad, hooks)", callee);
    return push(items[0]);
  }
  if (callee != kOrderedDict || !items.empty()) unsupported("a call of {}", quote(callee));
  push_node(Kind::kDict);
}

/// (storage, offset, shape, strides, requires_grad, hooks[, metadata]).
void Reader::rebuild_tensor(const std::vector<Value>& args) {
  if (args.size() < 6 || args.size() > 7 || args[0].kind != Kind::kStorage ||
      args[1].kind != Kind::kInt || args[1].integer < 0) {
    unsupported("{} of something else than (storage, offset, shape, strides, ...)", kRebuildTensor);
  }
  PickledTensor tensor = args[0].node->tensor;
  tensor.offset = args[1].integer;
  tensor.shape = sizes(args[2], "a shape");
  tensor.strides = sizes(args[3], "strides");
  if (tensor.shape.size() != tensor.strides.size()) {
    corrupt("{} extents and {} strides", tensor.shape.size(), tensor.strides.size());
  }
  push_node(Kind::kTensor).tensor = std::move(tensor);
}

std::vector<int64_t> Reader::sizes(const Value& value, const char* what) const {
  if (value.kind != Kind::kTuple)
    unsupported("{} is {}, expected a tuple", what, name_of(value.kind));
  const std::vector<Value>& items = value.node->items;
  if (items.size() > kMaxDimensions)
    unsupported("{} of {} dimensions, expected at most {}", what, items.size(), kMaxDimensions);
  std::vector<int64_t> out;
  for (const Value& item : items) {
    if (item.kind != Kind::kInt || item.integer < 0)
      corrupt("{} has {}, expected integers from 0", what, name_of(item.kind));
    out.push_back(item.integer);
  }
  return out;
}

std::vector<PickledTensor> Reader::tensors_of(const Value& top) const {
  if (top.kind != Kind::kDict) {
    fail(ErrorCode::kUnsupported, "{}: holds {}, expected a dict of tensors", where_,
         name_of(top.kind));
  }
  std::vector<PickledTensor> out;
  const std::vector<Value>& items = top.node->items;
  for (size_t i = 0; i < items.size(); i += 2) {
    const Value &key = items[i], &value = items[i + 1];
    if (key.kind != Kind::kText || !is_plain_name(key.node->text)) {
      fail(ErrorCode::kUnsupported, "{}: a key is {}, expected a name on one line", where_,
           key.kind == Kind::kText ? quote(key.node->text) : std::string(name_of(key.kind)));
    }
    if (value.kind != Kind::kTensor) {
      fail(ErrorCode::kUnsupported, "{}: {} is {}, expected a tensor", where_,
           quote(key.node->text), name_of(value.kind));
    }
    out.push_back(value.node->tensor);
    out.back().name = key.node->text;
  }
  return out;
}

}  // namespace

std::vector<PickledTensor> read_torch_pickle(std::span<const std::byte> pickle,
                                             const std::string& where) {
  return Reader(pickle, where).read();
}

}  // namespace deltacome
