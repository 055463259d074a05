import json,random,subprocess,threading,http.client,sys,time,socket
which=sys.argv[1]; url=open(f'v{which}.url').read().strip()[7:]
N=6
users=[f'u{i}' for i in range(N)]
toks={u:subprocess.check_output(['./cs','token',json.dumps({'id':u,'role':'r'+u})],text=True).strip() for u in users}
log={} # request id -> user
lk=threading.Lock()
def worker(u,seed):
    r=random.Random(seed); conn=http.client.HTTPConnection(url,timeout=30)
    def call(m,p,b=None):
        nonlocal conn
        h={'Authorization':'Bearer '+toks[u],'content-type':'application/json' if m!='PATCH' else 'application/merge-patch+json'}
        rid=f'{u}-{r.randrange(1<<60):x}'; h['X-Request-Id']=rid
        with lk: log[rid]=(u,m,p)
        if r.random()<0.05:   # cancelled client
            s=socket.create_connection(url.split(':')); body=json.dumps(b) if b is not None else ''
            s.sendall((f'{m} /api{p} HTTP/1.1\r\nHost: {url}\r\n'+''.join(f'{k}: {v}\r\n' for k,v in h.items())+f'Content-Length: {len(body)}\r\n\r\n{body}').encode())
            time.sleep(r.random()*0.003); s.close(); return
        try:
            conn.request(m,'/api'+p,json.dumps(b) if b is not None else None,h); x=conn.getresponse(); t=x.read()
            st[x.status]=st.get(x.status,0)+1
            if x.status>=500: print(m,p,b,x.status,t[:300])
        except Exception as e: conn=http.client.HTTPConnection(url,timeout=30); print('EX',e)
    R=lambda: r.randrange(1,12)
    for _ in range(900):
        k=r.randrange(16)
        if k==0: call('POST','/orgs',{'id':R(),'name':u})
        elif k==1: call('DELETE',f'/orgs/{R()}')
        elif k==2: call('POST','/teams',{'id':R(),'orgId':r.choice([None,R()]),'bossId':r.choice([None,R()])})
        elif k==3: call('DELETE',f'/teams/{R()}')
        elif k==4: call('POST','/members',{'a':R(),'b':r.choice('xy"é'),'teamId':R()})
        elif k==5: call('DELETE',f'/members/{R()},{r.choice("xy")}')
        elif k==6: call('POST','/notes',{'id':R(),'ma':R(),'mb':r.choice('xy'),'text':r.choice([None,'q','w'])})
        elif k==7: call('POST','/dirs',{'id':R(),'parentId':r.choice([None,R()]),'name':u})
        elif k==8: call('DELETE',f'/dirs/{R()}')
        elif k==9: call('POST',f'/dirs/{R()}/restore')
        elif k==10: call('POST','/files',{'id':R(),'dirId':r.choice([None,R()]),'name':r.choice('abcdef')})
        elif k==11: call('DELETE',f'/files/{R()}')
        elif k==12: call('PATCH',f'/dirs/{R()}',{'name':u,'parentId':r.choice([None,R()])})
        elif k==13: call('POST','/logs',{'id':R(),'orgId':R()})
        elif k==14: call('PATCH',f'/teams/{R()}',{'orgId':R(),'bossId':r.choice([None,R()])})
        else: call('PATCH',f'/files/{R()}',{'name':r.choice('abcdef')})
st={}
ts=[threading.Thread(target=worker,args=(u,i*7+int(sys.argv[2]))) for i,u in enumerate(users)]
[t.start() for t in ts];[t.join() for t in ts]
time.sleep(1)
print(st); json.dump(log,open(f'log-{which}.json','w'))
