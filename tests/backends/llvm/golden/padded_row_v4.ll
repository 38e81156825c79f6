define void @padded_row(ptr %ctx, ptr noalias readonly %a.x, ptr noalias %a.y) nounwind {
entry:
  %v5 = xor <16 x i1> <i1 true, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false, i1 false>, splat (i1 true)
  br label %v1
v1:
  %i.v1 = phi i64 [ 0, %entry ], [ %n.v1, %v1 ]
  %p9 = phi ptr [ %a.x, %entry ], [ %p9.n, %v1 ]
  %p12 = phi ptr [ %a.y, %entry ], [ %p12.n, %v1 ]
  %v2 = icmp sle i64 1, %i.v1
  %v3 = icmp slt i64 %i.v1, 5
  %v4 = and i1 %v2, %v3
  %v6 = insertelement <16 x i1> poison, i1 %v4, i64 0
  %v7 = shufflevector <16 x i1> %v6, <16 x i1> poison, <16 x i32> zeroinitializer
  %v8 = and <16 x i1> %v7, %v5
  %p10 = getelementptr i8, ptr %p9, i64 -84
  %v11 = call <16 x float> @llvm.masked.load.v16f32.p0(ptr align 4 %p10, <16 x i1> %v8, <16 x float> splat (float 0x0000000000000000))
  store <16 x float> %v11, ptr %p12, align 4
  %v13 = insertelement <8 x i1> poison, i1 %v4, i64 0
  %v14 = shufflevector <8 x i1> %v13, <8 x i1> poison, <8 x i32> zeroinitializer
  %v15 = and <8 x i1> %v14, <i1 true, i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false>
  %v16 = and <8 x i1> %v15, <i1 true, i1 true, i1 true, i1 true, i1 true, i1 true, i1 false, i1 false>
  %p17 = getelementptr i8, ptr %p9, i64 -20
  %v18 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr align 4 %p17, <8 x i1> %v16, <8 x float> splat (float 0x0000000000000000))
  %p19 = getelementptr i8, ptr %p12, i64 64
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v18, ptr align 4 %p19, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 true, i1 true, i1 false, i1 false>)
  %n.v1 = add nuw nsw i64 %i.v1, 1
  %p9.n = getelementptr i8, ptr %p9, i64 80
  %p12.n = getelementptr i8, ptr %p12, i64 88
  %c.v1 = icmp slt i64 %n.v1, 6
  br i1 %c.v1, label %v1, label %v1.end
v1.end:
  ret void
}
