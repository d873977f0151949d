//! Values of a pickle, as far as tensors need them: names, numbers, tuples, dicts, storages, tensors; all else is opaque.

use crate::error::PickleError;

/// Largest number of values in a pickle. A checkpoint of a thousand tensors with its optimizer has about ten thousand.
const MAX_VALUES: usize = 8_000_000;
/// Largest number of dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Index of a value in its list.
pub(super) type Id = u32;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value {
    /// Anything that no tensor needs: a float, a list, the result of an ignored call.
    Opaque,
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// Entries of a dict; later ones replace earlier ones.
    Dict(Vec<(Id, Id)>),
    /// Name of a class or function.
    Global {
        /// Module of the class or function.
        module: String,
        /// Name in the module.
        name: String,
    },
    /// Reference to numbers in the archive.
    Storage(Storage),
    /// A view of a storage.
    Tensor(StoredTensor),
}

/// Reference to numbers in the archive.
#[derive(Debug)]
pub(super) struct Storage {
    /// Type of the numbers.
    pub(super) element: Element,
    /// Index of the value with the entry's name.
    key: Id,
    /// Number of elements, as the pickle claims.
    pub(super) len: u64,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct StoredTensor {
    storage: Id,
    /// Index of the first element in the storage.
    pub(super) offset: i64,
    /// Sizes, outermost first.
    pub(super) shape: Vec<i64>,
    /// Step between neighbours in each dimension, in elements.
    pub(super) strides: Vec<i64>,
}

/// Type of a storage's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    /// IEEE 754, 32 bits.
    Float,
    /// IEEE 754, 16 bits.
    Half,
    /// Upper 16 bits of an f32.
    BFloat16,
    /// Another type, by name, which weights do not have.
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
    /// Adds a value, and returns its index.
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

    /// Returns the text keys and values of the dict at that index, if it is one.
    pub(super) fn dict(&self, id: Id) -> Option<impl Iterator<Item = (&str, Id)>> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries.iter().filter_map(|(key, value)| Some((self.text(*key)?, *value)))),
            _ => None,
        }
    }

    /// Returns the tensor at that index with its storage and the name of the storage's entry, if it is one.
    pub(super) fn tensor(&self, id: Id) -> Option<(&StoredTensor, &Storage, &str)> {
        let Value::Tensor(tensor) = self.get(id) else { return None };
        let Value::Storage(storage) = self.get(tensor.storage) else { return None };
        Some((tensor, storage, self.text(storage.key)?))
    }

    /// Adds entries to a dict; other values ignore them.
    pub(super) fn extend(&mut self, container: Id, entries: &[(Id, Id)]) {
        if let Value::Dict(present) = &mut self.0[container as usize] {
            present.extend(entries);
        }
    }

    /// Builds the name of a class or function from two texts.
    pub(super) fn global(&self, module: Id, name: Id) -> Value {
        match (self.text(module), self.text(name)) {
            (Some(module), Some(name)) => Value::Global { module: module.to_owned(), name: name.to_owned() },
            _ => Value::Opaque,
        }
    }

    /// Builds the storage of `("storage", class, key, location, length)`.
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

    /// Evaluates a call: a new value, or (as the error) the index of an existing one.
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
