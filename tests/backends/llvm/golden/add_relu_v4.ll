define void @add_relu(ptr %ctx, ptr noalias readonly %a.a, ptr noalias readonly %a.b, ptr noalias %a.y, i64 %a.n) nounwind {
entry:
  %v1 = add i64 %a.n, 15
  %v2 = lshr i64 %v1, 4
  br label %v3
v3:
  %i.v3 = phi i64 [ 0, %entry ], [ %n.v3, %v3 ]
  %p12 = phi ptr [ %a.a, %entry ], [ %p12.n, %v3 ]
  %p14 = phi ptr [ %a.b, %entry ], [ %p14.n, %v3 ]
  %p19 = phi ptr [ %a.y, %entry ], [ %p19.n, %v3 ]
  %v4 = mul i64 %i.v3, 16
  %v5 = sub i64 %a.n, %v4
  %v6 = call i64 @llvm.smax.i64(i64 %v5, i64 0)
  %v7 = call i64 @llvm.smin.i64(i64 %v6, i64 16)
  %v8 = trunc i64 %v7 to i32
  %v9 = insertelement <16 x i32> poison, i32 %v8, i64 0
  %v10 = shufflevector <16 x i32> %v9, <16 x i32> poison, <16 x i32> zeroinitializer
  %v11 = icmp sgt <16 x i32> %v10, <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15>
  %v13 = call <16 x float> @llvm.masked.load.v16f32.p0(ptr align 4 %p12, <16 x i1> %v11, <16 x float> zeroinitializer)
  %v15 = call <16 x float> @llvm.masked.load.v16f32.p0(ptr align 4 %p14, <16 x i1> %v11, <16 x float> zeroinitializer)
  %v16 = fadd <16 x float> %v13, %v15
  %v17 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v16
  %v18 = select <16 x i1> %v17, <16 x float> splat (float 0x0000000000000000), <16 x float> %v16
  call void @llvm.masked.store.v16f32.p0(<16 x float> %v18, ptr align 4 %p19, <16 x i1> %v11)
  %n.v3 = add nuw nsw i64 %i.v3, 1
  %p12.n = getelementptr i8, ptr %p12, i64 64
  %p14.n = getelementptr i8, ptr %p14, i64 64
  %p19.n = getelementptr i8, ptr %p19, i64 64
  %c.v3 = icmp slt i64 %n.v3, %v2
  br i1 %c.v3, label %v3, label %v3.end
v3.end:
  ret void
}
