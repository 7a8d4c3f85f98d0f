//! Contiguous f32 arrays, as the kernels see tensors.

use std::mem::MaybeUninit;

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};

/// A contiguous f32 array on the CPU. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Array(FlexTensor);

impl Array {
    /// The tensor, copied if it is not contiguous.
    ///
    /// # Panics
    /// If it is not of type f32.
    pub fn new(tensor: FlexTensor) -> Self {
        assert_eq!(tensor.dtype(), DType::F32, "kernels compute in f32");
        if tensor.is_contiguous() { Self(tensor) } else { Self(tensor.to_contiguous()) }
    }

    /// The values in row-major order, as many as the shape says.
    pub fn from_vec(values: Vec<f32>, shape: &[usize]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let layout = Layout::contiguous(Shape::from(shape.to_vec()));
        Self(FlexTensor::new(Bytes::from_elems(values), layout, DType::F32))
    }

    /// The tensor.
    pub fn into_tensor(self) -> FlexTensor {
        self.0
    }

    /// The axes' sizes.
    pub fn shape(&self) -> &[usize] {
        self.0.layout().shape()
    }

    /// The axes' sizes, of which there must be so many.
    pub fn dims<const D: usize>(&self) -> [usize; D] {
        self.shape().try_into().unwrap_or_else(|_| panic!("{D} axes expected, {:?} given", self.shape()))
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        self.0.as_slice().expect("contiguous and f32")
    }

    /// The values to be changed in place, if nobody else holds them.
    pub fn unique_values(&mut self) -> Option<&mut [f32]> {
        let (start, end) = self.0.layout().contiguous_offsets()?;
        Some(&mut self.0.try_storage_mut::<f32>()?[start..end])
    }

    /// The same values under another shape of as many elements.
    pub fn reshape(self, shape: &[usize]) -> Self {
        assert_eq!(self.shape().iter().product::<usize>(), shape.iter().product::<usize>());
        let shape = Shape::from(shape.to_vec());
        let start = self.0.layout().start_offset();
        let layout = match start {
            0 => Layout::contiguous(shape),
            _ => {
                return Self(FlexTensor::from_arc(
                    self.0.to_contiguous().data_arc(),
                    Layout::contiguous(shape),
                    DType::F32,
                ));
            }
        };
        Self(self.0.with_layout(layout))
    }

    /// Whether both are the same memory under the same shape.
    pub fn is_same(&self, other: &Self) -> bool {
        let start = |array: &Self| array.values().as_ptr();
        start(self) == start(other) && self.shape() == other.shape()
    }
}

/// An array that is being made: memory without values, to be written completely.
pub struct Output {
    values: Vec<MaybeUninit<f32>>,
    shape: Vec<usize>,
}

impl Output {
    /// Memory for an array of this shape.
    pub fn new(shape: &[usize]) -> Self {
        let len = shape.iter().product();
        let mut values = Vec::with_capacity(len);
        // SAFETY: a `MaybeUninit` needs no value.
        unsafe { values.set_len(len) };
        Self { values, shape: shape.to_vec() }
    }

    /// Where the values go, in row-major order.
    pub fn pointer(&mut self) -> Pointer {
        Pointer(self.values.as_mut_ptr().cast())
    }

    /// The array.
    ///
    /// # Safety
    /// Every value must have been written.
    pub unsafe fn finish(self) -> Array {
        let mut values = std::mem::ManuallyDrop::new(self.values);
        // SAFETY: the same allocation; the caller has written all values.
        let values = unsafe { Vec::from_raw_parts(values.as_mut_ptr().cast::<f32>(), values.len(), values.capacity()) };
        Array::from_vec(values, &self.shape)
    }
}

/// A place to write to from several threads, each at elements of its own.
#[derive(Debug, Clone, Copy)]
pub struct Pointer(*mut f32);

// SAFETY: whoever writes through it promises, in an unsafe block of its own, that no two threads meet.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

impl Pointer {
    /// To values that may be changed.
    pub fn to(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// To values that are only read.
    pub fn reading(values: &[f32]) -> Self {
        Self(values.as_ptr().cast_mut())
    }

    /// The address of the element at `index`.
    ///
    /// # Safety
    /// There must be such an element.
    pub unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }

    /// The `len` values from `index` on.
    ///
    /// # Safety
    /// They must exist and be written before they are read; no other reference to them may live.
    pub unsafe fn slice<'a>(self, index: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(index), len) }
    }
}
