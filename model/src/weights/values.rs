//! What a pickle's values are to a reader of tensors: names, numbers, tuples, dicts, storages, tensors; all else is opaque.

use crate::error::PickleError;

/// Most values of a pickle. Checkpoints of a thousand tensors with their optimizer make some ten thousand.
const MAX_VALUES: usize = 8_000_000;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Index of a value.
pub(super) type Id = u32;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value {
    /// Anything that no tensor is made of: a float, a list, the result of a call that is not carried out.
    Opaque,
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dict: keys with values, later ones replace earlier ones.
    Dict(Vec<(Id, Id)>),
    /// Name of a class or function.
    Global {
        /// Module that holds it.
        module: String,
        /// Its name there.
        name: String,
    },
    /// Numbers that lie in the archive.
    Storage(Storage),
    /// A view of a storage.
    Tensor(StoredTensor),
}

/// Numbers that lie in the archive.
#[derive(Debug)]
pub(super) struct Storage {
    /// Their type.
    pub(super) element: Element,
    /// Value that names their entry.
    key: Id,
    /// How many there are, by the pickle's word.
    pub(super) len: u64,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct StoredTensor {
    storage: Id,
    /// Index of the first number.
    pub(super) offset: i64,
    /// Sizes, outermost first.
    pub(super) shape: Vec<i64>,
    /// Steps between neighbours of each dimension, in numbers.
    pub(super) strides: Vec<i64>,
}

/// Type of a storage's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    /// 32 bits.
    Float,
    /// 16 bits of IEEE 754.
    Half,
    /// The upper 16 bits of a float.
    BFloat16,
    /// A type that no weights have, by its name.
    Unused(&'static str),
}

impl Element {
    fn of_storage(class: &str) -> Option<Self> {
        const UNUSED: [&str; 7] =
            ["DoubleStorage", "LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"];
        match class {
            "FloatStorage" => Some(Self::Float),
            "HalfStorage" => Some(Self::Half),
            "BFloat16Storage" => Some(Self::BFloat16),
            other => UNUSED.into_iter().find(|class| *class == other).map(Self::Unused),
        }
    }
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<Value>);

impl Values {
    /// Adds a value and returns its index.
    pub(super) fn add(&mut self, value: Value) -> Result<Id, PickleError> {
        if self.0.len() >= MAX_VALUES {
            return Err(PickleError::TooLarge { limit: MAX_VALUES });
        }
        self.0.push(value);
        Ok((self.0.len() - 1) as Id)
    }

    fn get(&self, id: Id) -> &Value {
        &self.0[id as usize]
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The dict of that index, if it is one: text keys with their values.
    pub(super) fn dict(&self, id: Id) -> Option<impl Iterator<Item = (&str, Id)>> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries.iter().filter_map(|(key, value)| Some((self.text(*key)?, *value)))),
            _ => None,
        }
    }

    /// The tensor of that index with its storage and the name of the storage's entry, if it is one.
    pub(super) fn tensor(&self, id: Id) -> Option<(&StoredTensor, &Storage, &str)> {
        let Value::Tensor(tensor) = self.get(id) else { return None };
        let Value::Storage(storage) = self.get(tensor.storage) else { return None };
        Some((tensor, storage, self.text(storage.key)?))
    }

    /// Puts entries into a dict; anything else keeps nothing.
    pub(super) fn extend(&mut self, container: Id, entries: &[(Id, Id)]) {
        if let Value::Dict(present) = &mut self.0[container as usize] {
            present.extend(entries);
        }
    }

    /// Name of a class or function out of two texts.
    pub(super) fn global(&self, module: Id, name: Id) -> Value {
        match (self.text(module), self.text(name)) {
            (Some(module), Some(name)) => Value::Global { module: module.to_owned(), name: name.to_owned() },
            _ => Value::Opaque,
        }
    }

    /// What `("storage", class, key, location, length)` stands for.
    pub(super) fn storage(&self, id: Id) -> Value {
        let found = || {
            let &[tag, class, key, _, len, ..] = self.tuple(id)? else { return None };
            let Value::Global { module, name } = self.get(class) else { return None };
            let element = Element::of_storage(name).filter(|_| module == "torch" && self.text(tag) == Some("storage"))?;
            self.text(key)?;
            Some(Storage { element, key, len: u64::try_from(self.int(len)?).ok()? })
        };
        found().map_or(Value::Opaque, Value::Storage)
    }

    /// Result of a call: a new value, or (as the error) one that is there already.
    pub(super) fn call(&self, callable: Id, arguments: Id) -> Result<Value, Id> {
        let Value::Global { module, name } = self.get(callable) else { return Ok(Value::Opaque) };
        let arguments = self.tuple(arguments).unwrap_or_default();
        match (module.as_str(), name.as_str(), arguments) {
            ("collections", "OrderedDict", []) => Ok(Value::Dict(Vec::new())),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor", &[storage, offset, shape, strides, ..]) => {
                Ok(self.view(storage, offset, shape, strides).map_or(Value::Opaque, Value::Tensor))
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", &[data, ..]) => Err(data),
            ("torch", "Size", &[sizes]) => Err(sizes),
            _ => Ok(Value::Opaque),
        }
    }

    fn view(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Option<StoredTensor> {
        let numbers = |id: Id| -> Option<Vec<i64>> {
            let items = self.tuple(id).filter(|items| items.len() <= MAX_RANK)?;
            items.iter().map(|item| self.int(*item)).collect()
        };
        matches!(self.get(storage), Value::Storage(_)).then_some(())?;
        Some(StoredTensor { storage, offset: self.int(offset)?, shape: numbers(shape)?, strides: numbers(strides)? })
    }
}
